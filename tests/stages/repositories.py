"""Repositories of Git and DVC, in the current directory."""

import subprocess


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def begin():
    """One of both."""
    git("init", "--initial-branch", "main", ".")
    git("config", "user.name", "t")
    git("config", "user.email", "t@example.org")
    subprocess.run(["dvc", "init", "--quiet"], check=True)


def commit(name):
    """Commit all that is here, under a tag."""
    git("add", "--all")
    git("commit", "--message", name)
    git("tag", name)
