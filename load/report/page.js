"use strict";
// Values under the pointer. The page says everything without it, too.
const tip = document.getElementById("tip");
const space = "http://www.w3.org/2000/svg";
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const lines = JSON.parse(svg.dataset.hover);
  let marks = [];
  const leave = () => { marks.forEach((m) => m.remove()); marks = []; tip.style.display = "none"; };
  const add = (name, kind, values) => {
    const mark = document.createElementNS(space, name);
    mark.setAttribute("class", kind);
    for (const [key, value] of Object.entries(values)) mark.setAttribute(key, value);
    svg.append(mark);
    marks.push(mark);
  };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    leave();
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    if (x < Number(svg.dataset.left) - 6) return;
    tip.replaceChildren();
    let at = null;
    for (const line of lines) {
      let best = null;
      for (const p of line.points) if (best === null || Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p;
      if (best === null || Math.abs(best[0] - x) > 60) continue;
      if (at === null) { at = best; add("path", "cursor", { d: `M${best[0]} 10V${svg.dataset.bottom}` }); }
      add("circle", `spot ${line.kind}`, { cx: best[0], cy: best[1], r: 4 });
      const row = document.createElement("div");
      row.textContent = `${line.name}: ${best[3]} at ${best[2]}`;
      tip.append(row);
    }
    if (at === null) return;
    tip.style.display = "block";
    const width = tip.offsetWidth;
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - width - 8)}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
}
