// Values under the pointer, and runs shown or hidden by the legend. Places in a drawing turn back into values by its data-
// attributes: the curves' own coordinates are the only copy of the numbers.
(() => {
  const tip = document.getElementById("tip");
  const numbers = (text) => text.split(",").map(Number);
  const name = (run) => document.querySelector(`nav input[data-run="${run}"]`).parentElement;
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll(".hair").forEach((line) => line.remove());
  };
  const short = (value, span) => {
    const digits = Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(span || 1)) - 1));
    return Math.abs(value) > 0 && span < 1e-3 ? value.toExponential(2) : value.toLocaleString("en", { maximumFractionDigits: digits });
  };
  const show = (svg, event) => {
    const [left, top, right, bottom] = numbers(svg.dataset.box);
    const [x0, x1] = numbers(svg.dataset.x);
    const [y0, y1] = numbers(svg.dataset.y);
    const frame = svg.getBoundingClientRect();
    const at = ((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width;
    hide();
    if (at < left || at > right) return;
    const rows = [];
    let best = null;
    for (const path of svg.querySelectorAll("path.line:not(.hidden)")) {
      const points = path.getAttribute("d").slice(1).split("L").map(numbers);
      const nearest = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      if (Math.abs(nearest[0] - at) > 40) continue;
      if (best === null || Math.abs(nearest[0] - at) < Math.abs(best - at)) best = nearest[0];
      const value = y0 + ((bottom - nearest[1]) / (bottom - top)) * (y1 - y0);
      rows.push([value, path.dataset.run]);
    }
    if (best === null) return;
    const x = x0 + ((best - left) / (right - left)) * (x1 - x0);
    tip.replaceChildren(`${short(x, x1 - x0)} ${svg.dataset.unit}`);
    for (const [value, run] of rows.sort((a, b) => b[0] - a[0])) {
      const row = document.createElement("div");
      row.append(name(run).querySelector(".key").cloneNode(), `${short(value, y1 - y0)}  ${name(run).textContent}`);
      tip.append(row);
    }
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({ class: "hair", x1: best, x2: best, y1: top, y2: bottom })) line.setAttribute(key, value);
    svg.append(line);
    tip.hidden = false;
    const room = innerWidth - event.clientX > tip.offsetWidth + 30;
    tip.style.left = `${Math.max(4, room ? event.clientX + 16 : event.clientX - tip.offsetWidth - 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 4))}px`;
  };
  for (const svg of document.querySelectorAll("svg[data-box]")) {
    svg.addEventListener("pointermove", (event) => show(svg, event));
    svg.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, { passive: true });
  for (const box of document.querySelectorAll("nav input[data-run]")) {
    box.addEventListener("change", () => {
      for (const mark of document.querySelectorAll(`svg [data-run="${box.dataset.run}"]`)) mark.classList.toggle("hidden", !box.checked);
    });
  }
})();
