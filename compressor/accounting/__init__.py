"""Where every byte of a model's files is, and what would make them fewer.

    path --files--> files --onnx | coreml | gguf | safetensors | torch--> claims --tiled--> portions
                                  sources: forms of weights ------^
    portions + detection --advice--> what would save how many bytes, and what to do

An accountant knows one format and reads its structure, never its values: it claims runs of bytes, each for something.
`tiled` makes portions of the claims such that every byte of every file is in exactly one of them, whatever the claims
say: a damaged or hostile file may lie about its own contents, and never about its size.
"""

from __future__ import annotations
