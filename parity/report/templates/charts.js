// Zooms the curves: each SVG is drawn in units of its data, so a window of it is a viewBox.
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector(".curves"), field = plot.querySelector(".field"), said = plot.querySelector("output");
  const log = plot.dataset.log === "1", whole = plot.dataset.window.split(" ").map(Number);
  const curves = [...svg.querySelectorAll(".curve")], keys = [...plot.querySelectorAll(".key")];
  const points = curves.map(path => [...path.getAttribute("d").matchAll(/[ML](\S+) ([-+.e\d]+)/g)].map(m => [+m[1], -m[2]]));
  const hidden = new Set(), least = Math.max(1, (whole[1] - whole[0]) / 1e4);
  let [x0, x1, y0, y1] = whole, from = null;

  const ticks = (low, high, integral) => {
    const step = (high - low) / 5, power = 10 ** Math.floor(Math.log10(step));
    let by = [1, 2, 5, 10].map(m => m * power).find(s => s >= step * (1 - 1e-9));
    if (integral) by = Math.max(1, Math.round(by));
    const found = [];
    for (let i = Math.ceil(low / by); i * by <= high; i++) found.push(+(i * by).toPrecision(12));
    return found;
  };
  const label = (at, text, side) => {
    const span = document.createElement("span");
    span.style[side] = `${100 * at}%`;
    span.textContent = text;
    return span;
  };
  const shown = value => String(+(log ? 10 ** value : value).toPrecision(log ? 3 : 6));

  function draw() {
    const all = x0 === whole[0] && x1 === whole[1] && !hidden.size;
    [y0, y1] = [Infinity, -Infinity];
    if (all) [, , y0, y1] = whole;
    else points.forEach((of, i) => {
      if (!hidden.has(i)) for (const [x, y] of of) if (x >= x0 && x <= x1) { y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
    });
    if (y0 > y1) [, , y0, y1] = whole;
    const room = all ? 0 : 0.05 * (y1 - y0) || Math.max(Math.abs(y1) * 0.05, 1e-12);
    y0 -= room;
    y1 += room;
    svg.setAttribute("viewBox", `${x0} ${-y1} ${x1 - x0} ${y1 - y0}`);
    const across = ticks(y0, y1, log && y1 - y0 > 2);
    plot.querySelector(".y").replaceChildren(...across.map(t => label((t - y0) / (y1 - y0),
      log ? Number.isInteger(t) ? `1e${t}` : (10 ** t).toPrecision(3) : String(+t.toPrecision(6)), "bottom")));
    plot.querySelector(".x").replaceChildren(...ticks(x0, x1, x1 - x0 > 5).map(t => label((t - x0) / (x1 - x0), String(t), "left")));
    plot.querySelector(".grid").replaceChildren(...across.map(t => {
      const line = document.createElementNS(svg.namespaceURI, "path");
      line.setAttribute("d", `M${x0} ${-t}H${x1}`);
      return line;
    }));
  }
  function zoom(a, b) {
    const width = Math.min(Math.max(b - a, least), whole[1] - whole[0]), middle = (a + b) / 2;
    x0 = Math.min(Math.max(middle - width / 2, whole[0]), whole[1] - width);
    x1 = x0 + width;
    draw();
    said.textContent = x1 - x0 === whole[1] - whole[0] ? "" : `steps ${Math.ceil(x0)} to ${Math.floor(x1)}`;
  }
  const acts = {
    in: () => zoom(x0 + (x1 - x0) / 4, x1 - (x1 - x0) / 4),
    out: () => zoom(x0 - (x1 - x0) / 2, x1 + (x1 - x0) / 2),
    left: () => zoom(x0 - (x1 - x0) / 4, x1 - (x1 - x0) / 4),
    right: () => zoom(x0 + (x1 - x0) / 4, x1 + (x1 - x0) / 4),
    all: () => zoom(whole[0], whole[1]),
  };
  const at = event => {
    const box = svg.getBoundingClientRect();
    return x0 + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (x1 - x0);
  };
  function read(x) {
    const near = points.map((of, i) => {
      if (hidden.has(i) || !of.length) return null;
      let low = 0, high = of.length - 1;
      while (high - low > 1) { const mid = (low + high) >> 1; if (of[mid][0] < x) low = mid; else high = mid; }
      return of[x - of[low][0] < of[high][0] - x ? low : high];
    });
    const step = near.filter(Boolean).map(p => p[0]).sort((a, b) => Math.abs(a - x) - Math.abs(b - x))[0];
    const told = near.map((p, i) => p && p[0] === step ? `${keys[i].textContent.trim()} ${shown(p[1])}` : "").filter(Boolean);
    said.textContent = step === undefined ? "" : `step ${step}: ${told.join(", ")}`;
  }

  plot.addEventListener("click", event => acts[event.target.dataset.do]?.());
  svg.addEventListener("dblclick", acts.all);
  svg.addEventListener("pointerdown", event => { from = at(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", event => {
    read(at(event));
    field.style.setProperty("--from", from === null ? 0 : (Math.min(from, at(event)) - x0) / (x1 - x0));
    field.style.setProperty("--wide", from === null ? 0 : Math.abs(at(event) - from) / (x1 - x0));
  });
  svg.addEventListener("pointerup", event => {
    const to = at(event), start = from;
    from = null;
    field.style.setProperty("--wide", 0);
    if (start !== null && Math.abs(to - start) > 0.02 * (x1 - x0)) zoom(Math.min(start, to), Math.max(start, to));
  });
  svg.addEventListener("pointercancel", () => { from = null; field.style.setProperty("--wide", 0); });
  keys.forEach((key, i) => {  // a name becomes a button that hides its curve
    const button = document.createElement("button");
    button.type = "button";
    button.className = key.className;
    button.append(...key.childNodes);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(i)) hidden.add(i);
      button.setAttribute("aria-pressed", String(!hidden.has(i)));
      for (const path of svg.querySelectorAll(`[data-curve="${i}"]`)) path.style.display = hidden.has(i) ? "none" : "";
      draw();
    });
    key.replaceWith(button);
    keys[i] = button;
  });
  plot.querySelector(".tools").hidden = false;
}
