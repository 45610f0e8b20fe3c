// Tables that sort by the column whose heading is pressed; without it they stand as they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], written = [...body.rows];
  const value = (row, i) => row.cells[i].dataset.sort ?? row.cells[i].textContent.trim();
  const number = text => text === "inf" || text === "nan" ? Infinity : +text;
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = {ascending: "descending", descending: "none"}[head.getAttribute("aria-sort")] || "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order !== "none") head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1, rows = [...written];
      const numeric = rows.every(row => value(row, i) === "" || !Number.isNaN(number(value(row, i))));
      if (order !== "none") rows.sort((a, b) => {
        const [x, y] = [value(a, i), value(b, i)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what has none comes last
        return sign * (numeric ? number(x) - number(y) || 0 : x.localeCompare(y));
      });
      body.append(...rows);
    });
  });
}
