// A click on a heading sorts its column, figures from the largest, words from the first; "-", n/a and not run stay at the end.
const BLANK = /^(-|n\/a|not run)?$/;
const FIGURE = /^[+-]?\d*\.?\d+(?![\w.])/; // 0.803 ±.017, +0.012, 12; not 4c1e9a0
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  for (const head of table.tHead.querySelectorAll("th[data-column]")) {
    const texts = new Map(rows.map(row => [row, row.cells[head.dataset.column].textContent.trim()]));
    const said = [...texts.values()].filter(text => !BLANK.test(text));
    const figures = said.length > 0 && said.every(text => FIGURE.test(text));
    const compare = figures ? (a, b) => parseFloat(a) - parseFloat(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const rising = before ? before === "descending" : !figures;
      for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const order = (a, b) => {
        const x = texts.get(a), y = texts.get(b), blank = BLANK.test(x) - BLANK.test(y);
        return blank || BLANK.test(x) ? blank : rising ? compare(x, y) : compare(y, x);
      };
      body.append(...[...rows].sort(order));
    });
  }
}

// Heat over a picture for the word that is pointed at, tapped or focused; the first word of each picture is shown at once.
const COLOURS = [[87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // of matplotlib's inferno, from dark to bright
const smooth = t => t * t * (3 - 2 * t);
function colour(share) {
  const place = Math.min(share, 1) * (COLOURS.length - 1), below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((from, i) => from + (COLOURS[below + 1][i] - from) * (place - below));
}
function between(heat, rows, columns, y, x) { // y, x from 0 to 1; values stand in the middle of their cells
  const along = (share, count) => {
    const place = Math.min(Math.max(share * count - .5, 0), count - 1), first = Math.min(Math.floor(place), count - 2);
    return [first, smooth(place - first)];
  };
  const [row, down] = along(y, rows), [column, right] = along(x, columns), at = row * columns + column;
  const upper = heat[at] * (1 - right) + heat[at + 1] * right;
  const lower = heat[at + columns] * (1 - right) + heat[at + columns + 1] * right;
  return upper * (1 - down) + lower * down;
}
function draw(canvas, heat, rows, columns, crops, pads) { // crops, pads: the map is of a square in or around the picture
  const ratio = canvas.clientHeight / canvas.clientWidth || 1;
  const width = canvas.width = Math.round(192 / Math.max(ratio, 1)), height = canvas.height = Math.round(width * ratio);
  const side = pads ? Math.max(width, height) : Math.min(width, height);
  const seen = crops || pads ? [side, side] : [width, height];
  const left = (width - seen[0]) / 2, upper = (height - seen[1]) / 2;
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i += 4) {
    const down = (y + .5 - upper) / seen[1], right = (x + .5 - left) / seen[0];
    if (down < 0 || down > 1 || right < 0 || right > 1) { pixels.data[i + 3] = 150; continue; } // black: not seen
    const share = between(heat, rows, columns, down, right);
    pixels.data.set(colour(share), i);
    pixels.data[i + 3] = 215 * Math.min(1, share * 2.2);
  }
  context.putImageData(pixels, 0, 0);
}
for (const view of document.querySelectorAll(".view")) {
  const canvas = view.querySelector("canvas"), told = view.querySelector(".told");
  const show = button => {
    const { rows, columns, crops, pads, label } = button.parentElement.dataset;
    const heat = button.dataset.heat.match(/../g).map(digits => digits / 99);
    draw(canvas, heat, +rows, +columns, crops !== undefined, pads !== undefined);
    canvas.parentElement.classList.add("hot");
    told.textContent = `“${button.textContent}” (${label}): peak ${button.dataset.peak} times an even map`;
    view.querySelector("[aria-pressed=true]")?.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
  };
  for (const line of view.querySelectorAll(".words")) {
    const words = [...line.querySelectorAll("button")];
    words.forEach((word, n) => {
      word.tabIndex = n ? -1 : 0; // one stop of the tab key per caption, the arrow keys inside
      for (const event of ["pointerenter", "focus", "click"]) word.addEventListener(event, () => show(word));
      word.addEventListener("keydown", pressed => {
        const to = { ArrowRight: n + 1, ArrowLeft: n - 1, Home: 0, End: words.length - 1 }[pressed.key];
        if (!words[to]) return;
        pressed.preventDefault();
        word.tabIndex = -1;
        words[to].tabIndex = 0;
        words[to].focus();
      });
    });
  }
  const first = view.querySelector(".words button");
  if (first) show(first);
}
