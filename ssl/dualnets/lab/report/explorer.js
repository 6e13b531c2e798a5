// The explorer of a run: connects its controls and its data with plotly's charts.
"use strict";

(async () => {
  const box = document.getElementById("explorer");
  if (!box) return;
  const $ = (id) => document.getElementById(id);

  async function unpacked(text) {
    const { body } = await fetch(`data:application/gzip;base64,${text}`); // which no network sees
    return new Response(body.pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function loadPlotly() {
    let text = $("explorer-plotly")?.textContent;
    if (!text) { // it stands in a file beside the page
      const beside = Object.assign(document.createElement("script"), { src: box.dataset.plotly });
      const loaded = new Promise((resolve, reject) => Object.assign(beside, { onload: resolve, onerror: reject }));
      document.head.append(beside);
      await loaded;
      text = globalThis.explorerPlotly;
    }
    document.head.append(Object.assign(document.createElement("script"), { textContent: await unpacked(text) }));
  }

  const data = JSON.parse(await unpacked($("explorer-data").textContent));

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const sides = () => (dark.matches ? ["#56b4e9", "#e69f00"] : ["#0072b2", "#d55e00"]); // of the first cell and the one beside it, in curves
  // Plotly reads tags in texts; names are texts and nothing else.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const shown = (number) => (number === null ? "–" : number.toFixed(3));
  const ink = () => getComputedStyle(document.body).color;
  const settings = { displaylogo: false, displayModeBar: true, modeBarButtons: [["toImage"]] };

  function fill(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  }

  // What is chosen.
  const chosen = () => [0, 1].map((side) => data.cells[$(`cell-${side}`).value]).filter(Boolean);
  // 0, the mean, or the place of the member of this name; -1 where the cell has none
  const member = (cell) => ($("member").value === "mean" ? 0 : cell.members.map(String).indexOf($("member").value) + 1 || -1);
  const steps = () => [...new Set(chosen().flatMap((cell) => cell.steps))].sort((a, b) => a - b);
  const now = () => steps()[Number($("snapshot").value)];
  const last = (cell) => Math.max(0, cell.steps.filter((step) => step <= now()).length - 1);
  const scores = (cell) => cell.of[$("metric").value];

  // One number of a latent, by its place among the latents; null where it was not stored.
  const scale = (number) => (number === null || number === undefined ? null : number / 1000);
  const value = (cell, at, when = last(cell)) => scale(scores(cell)?.value[member(cell)]?.[when]?.[at]);
  const bound = (cell, at, name) => scale(scores(cell)?.[name][member(cell)]?.[at]);

  function coloured(cell, at) {
    const own = value(cell, at), how = $("colour").value;
    if (own === null || how === "value") return own;
    const beside = bound(cell, at, how);
    if (beside === null) return null;
    return how === "ceiling" ? own / beside : own - beside;
  }

  // Trees: one below or beside the other.
  function drawTree(side, cell) {
    const tree = data.trees[cell.tree], colours = tree.latents.map((_, at) => coloured(cell, at));
    const places = new Map(tree.latents.map((node, at) => [node, at]));
    const edges = { x: [], y: [], mode: "lines", hoverinfo: "skip", line: { color: "#8888", width: 1 } };
    tree.parent.forEach((parent, node) => {
      if (parent < 0) return;
      edges.x.push(tree.x[parent], tree.x[node], null);
      edges.y.push(tree.level[parent], tree.level[node], null);
    });
    const below = (at) => bound(cell, at, "null") !== null && value(cell, at) <= bound(cell, at, "null");
    const ring = (node) => places.has(node) && tree.names[node] === $("latent").value;
    const size = Math.max(4, Math.min(17, 1000 / tree.latents.length));
    const points = (nodes, marker) => ({
      x: nodes.map((node) => tree.x[node]), y: nodes.map((node) => tree.level[node]), mode: "markers", hoverinfo: "text",
      customdata: nodes.map((node) => (places.has(node) ? tree.names[node] : null)),
      text: nodes.map((node) => plain(places.has(node)
        ? `latent ${tree.names[node]}, level ${tree.level[node]}: ${shown(colours[places.get(node)])}` : `leaf ${tree.names[node]}`)),
      marker: { line: { color: nodes.map((node) => (ring(node) ? "#e6007e" : "#333")),
        width: nodes.map((node) => (ring(node) ? 4 : size < 9 ? 0 : 0.7)) }, ...marker },
    });
    const scored = tree.latents.filter((_, at) => colours[at] !== null);
    const nodes = points(scored, { size,
      color: scored.map((node) => colours[places.get(node)]), cmin: 0, cmax: 1, colorscale: "Viridis", showscale: true,
      symbol: scored.map((node) => (below(places.get(node)) ? "square" : "circle")),
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: ink() } },
    });
    // Grey: leaves, and latents without a score.
    const rest = [...tree.names.keys()].filter((node) => (colours[places.get(node)] ?? null) === null);
    const others = points(rest, { size: rest.map((node) => size / (places.has(node) ? 2 : 3)), color: "#888" });
    const layout = { ...look(), hovermode: "closest", xaxis: { visible: false }, yaxis: { visible: false, rangemode: "normal" } };
    const chart = $("trees").children[side].querySelector(".chart");
    chart.setAttribute("aria-label", `Tree of ${cell.name}`);
    $("trees").children[side].querySelector("h3").textContent = cell.name;
    Plotly.react(chart, [edges, nodes, others], { ...layout, width: chart.clientWidth, height: chart.clientHeight }, settings);
    if (!chart.dataset.listens) {
      chart.dataset.listens = "yes";
      chart.on("plotly_click", ({ points }) => {
        if ((points[0].customdata ?? null) === null) return;
        $("latent").value = points[0].customdata;
        draw();
      });
    }
  }

  function look() {
    return { showlegend: false, dragmode: false, margin: { l: 8, r: 8, t: 28, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink(), size: 12 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: ink(), activecolor: ink() } };
  }

  // The curve of the latent that is chosen, with its ceiling and its null.
  function drawCurve() {
    const lines = [];
    chosen().forEach((cell, side) => {
      const at = placeOf(cell), x = cell.steps.map((step) => step + 1), name = plain(cell.name);
      if (at < 0) return;
      lines.push({ x, y: cell.steps.map((_, when) => value(cell, at, when)), name,
        mode: "lines+markers", line: { color: sides()[side] } });
      for (const [kind, dash] of [["ceiling", "dash"], ["null", "dot"]]) {
        const height = bound(cell, at, kind);
        if (height === null) continue;
        lines.push({ x: [x[0], x.at(-1)], y: [height, height], name: kind, mode: "lines", showlegend: side === 0,
          line: { color: sides()[side], dash, width: 1 } });
      }
    });
    const axis = { gridcolor: "#8883", zeroline: false };
    const layout = { ...look(), showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 48, r: 12, t: 64, b: 44 },
      xaxis: { ...axis, type: "log", dtick: 1, title: { text: "updates + 1" } }, yaxis: { ...axis, range: [0, 1.02], title: { text: "alignment" } },
      shapes: [{ type: "line", x0: now() + 1, x1: now() + 1, yref: "paper", y0: 0, y1: 1, line: { color: "#8888", width: 2 } }] };
    $("curve").setAttribute("aria-label", `Learning curve of latent ${$("latent").value}`);
    Plotly.react($("curve"), lines, { ...layout, width: $("curve").clientWidth }, settings);
  }

  // The numbers of the latent that is chosen, as a table and as a sentence for screen readers.
  const placeOf = (cell) => {
    const tree = data.trees[cell.tree];
    return tree.latents.findIndex((node) => tree.names[node] === $("latent").value);
  };

  function numbersOf(cell) {
    const at = placeOf(cell);
    if (at < 0) return null;
    const own = value(cell, at), initial = value(cell, at, 0), ceiling = bound(cell, at, "ceiling");
    const gap = [own, initial, ceiling].includes(null) || ceiling <= initial ? null : (own - initial) / (ceiling - initial);
    const found = { alignment: shown(own), initial: shown(initial), ceiling: shown(ceiling),
      null: shown(bound(cell, at, "null")), "gap closed": shown(gap) };
    if (cell.candidates[at]) found.candidates = cell.candidates[at];
    if (cell.units) found.units = String(cell.units);
    const dead = scale(cell.dead[member(cell)]?.[at]);
    if (dead !== null) found["dead units at the end"] = String(Math.round(dead * 10) / 10);
    const best = scores(cell)?.unit[member(cell) - 1]?.[last(cell)]?.[at] ?? null;
    if (best !== null) found["best unit"] = `unit ${best}`;
    // every unit of the latent's block, of one tree, before and after training
    const [before, after] = cell.strength.map((end) => end[member(cell) - 1]?.[at] ?? []);
    before?.forEach((own, unit) => {
      found[`unit ${unit}, first → last`] = `${shown(scale(own))} → ${shown(scale(after[unit]))}`;
    });
    return found;
  }

  function tell() {
    const cells = chosen(), found = cells.map(numbersOf), table = document.createElement("table");
    const keys = [...new Set(found.flatMap((own) => Object.keys(own ?? {})))];
    const rows = [[`latent ${$("latent").value}, ${now()} updates`, ...cells.map((cell) => cell.name)],
      ...keys.map((key) => [key, ...found.map((own) => own?.[key] ?? "–")])];
    for (const [place, row] of rows.entries()) {
      const line = table.insertRow();
      for (const text of row) {
        const cell = document.createElement(place ? "td" : "th");
        cell.textContent = text;
        line.append(cell);
      }
      line.cells[0].className = "text";
    }
    const frame = Object.assign(document.createElement("div"), { className: "wide" });
    frame.append(table);
    $("numbers").replaceChildren(frame);
    if ($("member").value === "mean" && cells.some((cell) => cell.strength.length)) {
      $("numbers").append(Object.assign(document.createElement("p"), { className: "quiet", textContent: "Choose one tree to see its units." }));
    }
    const sentence = found.map((own, side) => own && `${cells[side].name}: ${Object.entries(own).map((pair) => pair.join(" ")).join(", ")}`);
    if (!timer) $("told").textContent = `${rows[0][0]}. ${sentence.filter(Boolean).join(". ")}.`;
  }

  function draw() {
    const cells = chosen();
    $("snapshot").max = steps().length - 1;
    $("updates").textContent = `after ${now()} updates`;
    $("snapshot").setAttribute("aria-valuetext", `after ${now()} updates`);
    $("trees").className = cells.length > 1 ? "pair two" : "pair"; // which changes the width of the first
    while ($("trees").children.length < cells.length) {
      const part = document.createElement("div");
      part.append(document.createElement("h3"), Object.assign(document.createElement("div"), { className: "chart" }));
      part.lastChild.setAttribute("role", "img");
      $("trees").append(part);
    }
    while ($("trees").children.length > cells.length) $("trees").lastChild.remove();
    if (globalThis.Plotly) {
      cells.forEach((cell, side) => drawTree(side, cell));
      drawCurve();
    }
    tell();
  }

  // What can be chosen follows from the first cell.
  function choices() {
    const [cell] = chosen(), tree = data.trees[cell.tree];
    const kept = ["member", "metric", "latent"].map((id) => [$(id), $(id).value]);
    fill($("member"), [["mean", "mean of all"], ...cell.members.map((name) => [name, name])]);
    fill($("metric"), Object.entries(data.metrics).filter(([name]) => name in cell.of));
    fill($("latent"), tree.latents.map((node) => [tree.names[node], `${tree.names[node]}, level ${tree.level[node]}`]));
    for (const [select, before] of kept) {
      if ([...select.options].some((option) => option.value === before)) select.value = before;
    }
  }

  let timer = 0;
  function play(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => {
      const slider = $("snapshot");
      if (Number(slider.value) >= Number(slider.max)) return play(false);
      slider.value = Number(slider.value) + 1;
      draw();
    }, 500) : 0;
    $("play").textContent = on ? "Stop" : "Play";
    if (!on) tell();
  }

  fill($("cell-0"), data.cells.map((cell, at) => [at, cell.name]));
  fill($("cell-1"), [["none", "no second cell"], ...data.cells.map((cell, at) => [at, cell.name])]);
  choices();
  $("snapshot").max = steps().length - 1;
  $("snapshot").value = $("snapshot").max;
  box.addEventListener("input", (event) => {
    if (event.target.id === "cell-0") choices();
    draw();
  });
  $("play").addEventListener("click", () => {
    if (!timer && $("snapshot").value === $("snapshot").max) $("snapshot").value = 0;
    play(!timer);
    draw();
  });
  dark.addEventListener("change", draw);
  addEventListener("resize", draw);
  draw();

  // Texts and controls are there; plotly's script is long, and is read when nothing else is to be done.
  await new Promise((resolve) => (globalThis.requestIdleCallback ?? setTimeout)(resolve));
  try {
    await loadPlotly();
  } catch {
    $("waiting").textContent = `The charts cannot be drawn: ${box.dataset.plotly || "plotly's script"} cannot be loaded.`;
    return;
  }
  $("waiting").remove();
  draw();
  box.dataset.ready = "yes";
})();
