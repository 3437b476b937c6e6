// Tables that sort, filter and unfold, and what stands under the pointer. The page is whole without it.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tables = new Map();

  // What of a table is shown: as many rows as were asked for, of those that match. The first ones where its reader has
  // sorted it, else those of the least rank. All at once would take a browser seconds where there are thousands.
  const STEP = 400;
  const show = (table) => {
    const { text, kinds, most, sorted } = tables.get(table);
    const rows = [...table.tBodies[0].rows];
    const matches = (row) => (!kinds || kinds.has(row.dataset.k)) && (!text || row.textContent.toLowerCase().includes(text));
    const matching = rows.filter(matches);
    const ranked = sorted ? matching : matching.toSorted((one, two) => one.dataset.r - two.dataset.r);
    const shown = new Set(ranked.slice(0, text ? Math.max(most, STEP) : most));
    for (const row of rows) row.hidden = !shown.has(row);
    const said = (count) => count.toLocaleString("en");
    table.querySelector("[data-count]").textContent = shown.size === rows.length ? "" : ` (${said(shown.size)} shown)`;
    const more = document.querySelector(`[data-more="${table.id}"]`);
    const next = Math.min(matching.length, shown.size + STEP);
    more.textContent = next === matching.length ? `Show all ${said(next)}` : `Show ${said(next)} of ${said(matching.length)}`;
    more.parentNode.hidden = shown.size === matching.length;
  };

  const key = (row, column, numeric) => {
    const cell = row.cells[column];
    const text = (cell.dataset.v ?? cell.textContent).trim();
    return numeric ? (text === "" ? NaN : Number.parseFloat(text)) : text;
  };

  const sort = (head) => {
    const table = head.closest("table");
    const numeric = head.classList.contains("n");
    const up = head.ariaSort ? head.ariaSort === "descending" : !numeric;
    for (const other of all("[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (one, two) => {
      if (!numeric) return one.localeCompare(two, "en", { numeric: true });
      return Number.isNaN(one) || Number.isNaN(two) ? 0 : one - two;
    };
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, head.cellIndex, numeric), row]);
    const empty = (value) => (numeric ? Number.isNaN(value) : value === "");
    rows.sort(([one], [two]) => empty(one) - empty(two) || (up ? 1 : -1) * compare(one, two));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    if (tables.has(table)) {
      tables.get(table).sorted = true;
      show(table);
    }
  };

  for (const button of all("thead button")) button.addEventListener("click", () => sort(button.closest("th")));

  for (const table of all("table[data-shown]")) {
    tables.set(table, { text: "", kinds: null, most: Number(table.dataset.shown), sorted: false });
    show(table);
  }
  for (const tools of all(".tools")) tools.hidden = false;
  for (const field of all("[data-filter]")) {
    const table = document.getElementById(field.dataset.filter);
    field.addEventListener("input", () => {
      tables.get(table).text = field.value.trim().toLowerCase();
      show(table);
    });
  }
  for (const box of all("[data-for]")) {
    const table = document.getElementById(box.dataset.for);
    box.addEventListener("change", () => {
      const boxes = all(`[data-for="${table.id}"]`);
      tables.get(table).kinds = new Set(boxes.filter((one) => one.checked).map((one) => one.value));
      show(table);
    });
  }
  for (const more of all("[data-more]")) {
    const table = document.getElementById(more.dataset.more);
    more.addEventListener("click", () => {
      tables.get(table).most += STEP;
      show(table);
    });
  }

  // Titles of marks, without the wait that browsers have; a point and its row light up together.
  const tip = document.getElementById("tip");
  for (const title of all("svg.plot title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(event.clientX + 14, window.innerWidth - width - 8));
    const top = event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 12 : event.clientY + 18;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  });
  const light = (event) => {
    const over = event.target.closest("[data-run]");
    for (const one of all("[data-run]")) one.classList.toggle("lit", Boolean(over) && one.dataset.run === over.dataset.run);
  };
  for (const place of all("svg.scatter, #runs")) {
    place.addEventListener("pointerover", light);
    place.addEventListener("pointerleave", light);
  }

  // Whoever has no pointer reaches a table that is wider than the page, and moves it with the arrows.
  const reach = new ResizeObserver((changed) => {
    for (const { target } of changed) {
      if (target.scrollWidth > target.clientWidth) target.setAttribute("tabindex", "0");
      else target.removeAttribute("tabindex");
    }
  });
  for (const scroll of all(".scroll")) reach.observe(scroll);

  // Paper has no clicks.
  window.addEventListener("beforeprint", () => {
    for (const [table, state] of tables) {
      state.most = Infinity;
      show(table);
    }
    for (const details of all("details")) details.open = true;
  });
})();
