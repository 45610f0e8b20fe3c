// Searches, folds, sorts and joins the rows of each drawing; without it all rows are there, unjoined.
for (const section of document.querySelectorAll(".graphs")) {
  const drawn = section.querySelector(".drawn"), table = drawn.querySelector("table");
  const bodies = [...table.tBodies], rows = [...table.querySelectorAll("tr.row")];
  const home = new Map(rows.map(row => [row, row.parentElement]));
  const numbered = new Map(rows.map(row => [row.dataset.row, row]));
  const text = new Map(rows.map(row => [row, row.textContent.toLowerCase().replace(/\s+/g, " ")]));
  const flat = table.createTBody();
  const search = section.querySelector("input"), count = section.querySelector(".count");
  const above = {jax: new Map(), torch: new Map()}, below = {jax: new Map(), torch: new Map()};
  for (const side of ["jax", "torch"]) for (const row of rows) {
    const made = (row.dataset[side + "Of"] || "").split(" ").map(n => numbered.get(n)).filter(Boolean);
    above[side].set(row, made);
    for (const operand of made) below[side].set(operand, [...below[side].get(operand) || [], row]);
  }
  const boxed = section.querySelector(".strip") !== null;  // many rows: the page begins at the parting
  let chosen = null, waiting = false;

  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  drawn.append(svg);
  const shape = (name, kind, values) => {
    const made = document.createElementNS(svg.namespaceURI, name);
    made.setAttribute("class", kind);
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    svg.append(made);
  };
  const shown = row => row.offsetParent !== null;

  function draw() {
    waiting = false;
    svg.replaceChildren();
    const gutter = table.tHead.rows[0].cells[1];
    const left = gutter.offsetLeft, width = gutter.offsetWidth, middle = left + width / 2;
    const reach = width > 100 ? 360 : 150;  // how long a curve is drawn unasked
    const off = Math.max(24, width * 0.21), x = {jax: middle - off, torch: middle + off};
    svg.setAttribute("width", table.offsetWidth);
    svg.setAttribute("height", table.offsetHeight);
    const y = new Map();
    for (const row of rows) if (shown(row)) y.set(row, row.offsetTop + 13);
    const place = row => y.get(row) ?? (shown(home.get(row).rows[0]) ? home.get(row).rows[0].offsetTop + 13 : null);
    const curve = (side, from, to, kind) => {
      const a = place(from), b = place(to);
      if (a === null || b === null || a === b) return;
      const bulge = Math.min(width / 2 - off - 2, 5 + Math.abs(a - b) / 6) * (side === "jax" ? -1 : 1);
      const at = x[side], out = at + bulge, bend = Math.min(60, Math.abs(a - b) / 2) * Math.sign(b - a);
      shape("path", kind, {d: `M${at} ${a}Q${out} ${a} ${out} ${a + bend}V${b - bend}Q${out} ${b} ${at} ${b}`});
    };
    for (const side of ["jax", "torch"]) for (const row of y.keys()) for (const operand of above[side].get(row))
      if (y.has(operand) && Math.abs(y.get(row) - y.get(operand)) < reach) curve(side, row, operand, "edge");
    if (chosen && y.has(chosen)) for (const side of ["jax", "torch"]) {
      for (const row of above[side].get(chosen)) curve(side, chosen, row, "chosen");
      for (const row of below[side].get(chosen) || []) curve(side, chosen, row, "chosen");
    }
    for (const [row, at] of y) {
      const look = row.classList, kind = ["parts", "agrees", "scaled", "same"].find(k => look.contains(k)) || "lone";
      const both = "jax" in row.dataset && "torch" in row.dataset, room = 14;
      if (both && kind !== "lone" && !look.contains("apart") || both && kind === "parts") {
        shape("line", kind, {x1: x.jax, y1: at, x2: middle - room, y2: at});
        shape("line", kind, {x1: middle + room, y1: at, x2: x.torch, y2: at});
      }
      for (const side of ["jax", "torch"]) if (side in row.dataset)
        shape("circle", kind, {cx: x[side], cy: at, r: 3.5});
    }
  }
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };

  function fold(body, closed) {
    body.classList.toggle("closed", closed);
    body.querySelector("button").setAttribute("aria-expanded", String(!closed));
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const row of rows) {
      row.hidden = !words.every(word => text.get(row).includes(word));
      hits += !row.hidden;
    }
    drawn.classList.toggle("searching", words.length > 0);
    for (const body of bodies) body.hidden = ![...body.rows].some(row => row.classList.contains("row") && !row.hidden);
    count.textContent = words.length ? `${hits} of ${rows.length} rows` : "";
    redraw();
  }
  function sort(order) {
    let last = -1;
    const key = new Map(rows.map(row => [row, last = +(row.dataset.jax ?? last)]));
    const sorted = order === "jax" ? [...rows].sort((a, b) => key.get(a) - key.get(b)) : rows;
    for (const row of sorted) (order === "jax" ? flat : home.get(row)).append(row);
    filter();
  }
  function choose(row) {
    if (chosen) chosen.tabIndex = -1;
    for (const other of rows) other.classList.remove("near");
    chosen = row;
    row.tabIndex = 0;
    for (const side of ["jax", "torch"])
      for (const other of [...above[side].get(row), ...below[side].get(row) || []]) other.classList.add("near");
    redraw();
  }
  function show(row) {
    fold(home.get(row), false);
    if (row.hidden) { search.value = ""; filter(); }
    if (boxed) drawn.scrollTop = row.offsetTop - drawn.clientHeight / 2;
  }
  function go(row) {
    show(row);
    row.scrollIntoView({block: boxed ? "nearest" : "center"});
    row.focus({preventScroll: true});
  }

  for (const body of bodies) {
    fold(body, body.dataset.open === "0");
    body.querySelector("button").addEventListener("click", () => { fold(body, !body.classList.contains("closed")); redraw(); });
  }
  table.addEventListener("focusin", event => { const row = event.target.closest("tr.row"); if (row) choose(row); });
  table.addEventListener("keydown", event => {
    const row = event.target.closest("tr.row"), step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!row || !step) return;
    const seen = [...table.querySelectorAll("tr.row")].filter(shown), next = seen[seen.indexOf(row) + step];
    event.preventDefault();
    if (next) { next.focus({preventScroll: true}); next.scrollIntoView({block: "nearest"}); }
  });
  search.addEventListener("input", filter);
  search.addEventListener("keydown", event => { if (event.key === "Escape") { search.value = ""; filter(); } });
  section.querySelector("select").addEventListener("change", event => sort(event.target.value));
  const parting = rows.find(row => row.classList.contains("parts"));
  for (const button of section.querySelectorAll("[data-do]")) button.addEventListener("click", () => {
    if (button.dataset.do === "parting") return go(parting);
    for (const body of bodies) fold(body, button.dataset.do === "close");
    redraw();
  });
  section.querySelector(".strip")?.addEventListener("click", event => {
    const box = event.currentTarget.getBoundingClientRect();
    go(rows[Math.min(rows.length - 1, Math.floor((event.clientX - box.left) / box.width * rows.length))]);
  });
  section.querySelector(".tools").hidden = false;
  drawn.classList.toggle("boxed", boxed);
  if (parting) show(parting);
  if (rows.length) (parting || rows[0]).tabIndex = 0;
  addEventListener("resize", redraw);
  redraw();
}
