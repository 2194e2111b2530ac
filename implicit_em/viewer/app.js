"use strict";
// Shows the features of runs. Everything that comes from data is put into text nodes or into
// attributes that hold no code, so that text from anywhere stays text.
(() => {
  const PAGE = 100; // rows of the table that are shown at once
  const ANSWERS = (document.body.dataset.served ?? "").split(" "); // what a server answers
  const RUNS = Number(document.body.dataset.runs);
  const main = document.getElementById("main");
  const waiting = new Map(); // name of data -> function that takes them
  const loaded = new Map(); // name of data -> promise of them
  let keys = {}; // key -> function, for the view that is shown

  // Data -----------------------------------------------------------------------------------------

  globalThis.explorer = (name, content) => waiting.get(name)?.(content);

  /** Return data by name; a page of files may not read files, but it may run scripts. */
  function load(name) {
    if (!loaded.has(name)) {
      loaded.set(name, new Promise((resolve, reject) => {
        waiting.set(name, resolve);
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onerror = () => reject(new Error(`${name} is missing`));
        document.head.append(script);
      }));
    }
    return loaded.get(name);
  }

  async function unitOf(run, unit) {
    const about = await load(`${run}/about`);
    const units = await load(`${run}/block-${Math.floor(unit / about.block)}`);
    return units[unit % about.block];
  }

  // Elements -------------------------------------------------------------------------------------

  /** Make an element; strings among the children become text. */
  function h(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value !== null && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null));
    return element;
  }

  const number = (value) => value === null || value === undefined ? "–"
    : typeof value !== "number" ? String(value)
      : value === 0 ? "0"
        : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(2)
          : String(Number(value.toPrecision(4)));
  const ratio = (value) => typeof value === "number" ? value.toFixed(3) : "–";
  const percent = (share) => share === 0 ? "0 %"
    : `${share < 1e-3 ? Number((100 * share).toPrecision(3)) : (100 * share).toPrecision(3)} %`;

  /** Make characters visible that would hide, reorder or break the text around them. */
  const visible = (text) => text
    .replace(/\n/g, "⏎").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
      (c) => `‹${c.charCodeAt(0).toString(16)}›`);

  /** Make a cell of a table; a number is never broken, a text may be. */
  const td = (cell) => h("td", { class: /^[-–+\d.,e %]+$/.test(cell) ? "number" : null }, cell);

  // Charts ---------------------------------------------------------------------------------------

  /** Draw bars over [0, end], on a logarithmic scale of counts. */
  function histogram(counts, end) {
    const [width, height, top] = [320, 90, Math.log1p(Math.max(...counts, 1))];
    const step = width / counts.length;
    const bars = counts.map((count, place) => {
      const size = height * Math.log1p(count) / top;
      return svg("rect", {
        x: place * step, y: height - size, width: step - 1, height: size, class: "bar",
      }, svg("title", {}, `${count.toLocaleString("en")} from ${number(end * place / counts.length)}`));
    });
    return h("figure", {}, svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart",
      "aria-label": `Histogram of ${counts.reduce((a, b) => a + b, 0)} activations up to ${number(end)}`,
    }, bars), h("figcaption", {}, `activations from 0 to ${number(end)}; heights are logarithms of counts`));
  }

  /** Draw a curve of values, which may have gaps. */
  function curve(name, values) {
    const known = values.filter((value) => value !== null);
    if (known.length < 2) return null;
    const [width, height] = [320, 90];
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const x = (place) => width * place / Math.max(values.length - 1, 1);
    const y = (value) => height - 3 - (height - 6) * (value - low) / (high - low || 1);
    const points = values.map((value, place) => value === null ? null : `${x(place)},${y(value)}`);
    return h("figure", {}, svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart",
      "aria-label": `${name}, from ${number(known[0])} to ${number(known.at(-1))}`,
    }, svg("polyline", { points: points.filter(Boolean).join(" "), class: "line" })),
    h("figcaption", {}, `${name}: ${number(low)} to ${number(high)}, at the end ${number(known.at(-1))}`));
  }

  /** Draw all features by density and by how well they tell a label. */
  function scatter(run, table) {
    const width = Math.max(320, Math.min(720, main.clientWidth)); // so that its text stays readable
    const [height, left, top, bottom] = [270, 52, 10, 40];
    const alive = table.density.map((d, unit) => unit).filter((unit) => table.density[unit] > 0);
    const logs = alive.map((unit) => Math.log10(table.density[unit]));
    if (!alive.length || table.auroc.every((value) => value === null)) return null;
    const low = Math.floor(Math.min(...logs));
    const high = Math.max(low + 1, Math.ceil(Math.max(...logs)));
    const x = (log) => left + (width - left - 8) * (log - low) / (high - low);
    const y = (auroc) => top + (height - bottom - top) * (1 - auroc) / 0.5;
    const dots = alive.map((unit, place) => svg("circle", {
      cx: x(logs[place]), cy: y(Math.max(table.auroc[unit] ?? 0.5, 0.5)), r: 3.2, class: "dot",
      click: () => go(`${run}/feature/${unit}`),
    }, svg("title", {}, `${unit}: ${table.label[unit]}, AUROC ${ratio(table.auroc[unit])}, active on ${percent(table.density[unit])}`)));
    const ticks = [];
    const step = Math.ceil((high - low) * 60 / (width - left)); // decades from tick to tick
    const shares = [...Array(high - low + 1).keys()].filter((place) => place % step === 0).map((place) => 10 ** (high - place));
    if (shares.length === 2) shares.push(5 * 10 ** low, 2 * 10 ** low);
    for (const share of shares) {
      ticks.push(svg("text", { x: x(Math.log10(share)), y: height - 22, class: "tick", "text-anchor": share === shares[0] ? "end" : "middle" }, `${Number((100 * share).toPrecision(1))} %`));
    }
    for (const auroc of [0.5, 0.75, 1]) {
      ticks.push(svg("text", { x: left - 6, y: y(auroc) + 4, class: "tick", "text-anchor": "end" }, String(auroc)));
    }
    return h("figure", {}, svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart wide",
      "aria-label": "All features by density and selectivity; the table below has the same numbers",
    }, svg("line", { x1: left, x2: width, y1: y(0.5), y2: y(0.5), class: "axis" }), dots, ticks,
    svg("text", { x: (left + width) / 2, y: height - 4, class: "tick", "text-anchor": "middle" }, "share of the samples on which a feature is active"),
    svg("text", { x: 12, y: height / 2 - 14, class: "tick", "text-anchor": "middle", transform: `rotate(-90 12 ${height / 2 - 14})` }, "AUROC of its best label")));
  }

  // Examples -------------------------------------------------------------------------------------

  /** Name a value of a label; of a single label, the value is enough. */
  function nameOf(about, label, value) {
    return !value ? label : about.labels.length === 1 ? value : `${label}: ${value}`;
  }

  function labelled(about, values) {
    return values.map((value, place) => value && value !== "no"
      ? h("span", { class: "label" }, nameOf(about, about.labels[place], value === "yes" ? "" : value)) : null);
  }

  function example(about, vocabulary, top, shown) {
    if (about.kind === "texts") return textExample(about, vocabulary, top, shown);
    const [sample, value, labels, picture] = shown;
    return h("li", { class: picture ? "picture" : "plain" },
      picture ? h("img", { src: picture, alt: `sample ${sample}, activation ${number(value)}`, loading: "lazy" }) : null,
      h("div", {}, number(value), " ", labelled(about, labels)),
      h("div", { class: "small" }, `sample ${sample}`));
  }

  function textExample(about, vocabulary, top, shown) {
    const [sample, value, labels, place, start, ids, values] = shown;
    const words = ids.map((id, offset) => {
      const active = values[offset];
      // The space before a word stands outside the coloured box, so that lines break there.
      const [, space, text] = /^( (?=.))?(.*)$/s.exec(visible(vocabulary[id] ?? `‹${id}›`));
      const span = h("span", {
        class: active === null ? "token left-out" : active > 0 ? "token active" : "token",
        title: active === null ? "left out of the data" : `activation ${number(active)}`,
      }, text);
      if (active > 0) span.style.setProperty("--share", String(Math.min(1, active / top)));
      if (start + offset === place) span.classList.add("here");
      return [space ?? "", span];
    });
    return h("li", { class: "context" },
      h("div", { class: "words", dir: "auto" }, words),
      h("div", { class: "small" }, `${number(value)} · sample ${sample} `, labelled(about, labels)));
  }

  function list(title, about, table, unit, some) {
    const top = table.max[unit] || 1;
    return some.length ? h("section", {},
      h("h3", {}, title),
      h("ol", { class: about.kind }, some.map((one) => example(about, about.vocabulary ?? [], top, one)))) : null;
  }

  function examples(about, table, unit, { strongest, parts, silent }) {
    const fifths = parts.length === 5 ? ["strongest", "second", "third", "fourth", "weakest"] : [];
    return [
      list("Strongest", about, table, unit, strongest),
      parts.map((some, place) => list(
        fifths.length ? `Random among the ${fifths[place]} fifth` : "Active", about, table, unit, some)),
      list("Random, where it is silent", about, table, unit, silent),
    ];
  }

  function facts(table, unit, more) {
    const rows = [
      ["active on", table.density[unit] ? percent(table.density[unit]) : "no sample: it is dead"],
      ["strongest activation", number(table.max[unit])],
      ["mean if active", number(table.mean[unit])],
      ...more,
    ];
    return h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  function pictures({ weights, mean }) {
    const one = (src, alt, caption) => src ? h("figure", {}, h("img", { src, alt, class: "large" }), h("figcaption", {}, caption)) : null;
    return h("div", { class: "pictures" },
      one(weights, "row of encoder weights", "encoder weights: blue is positive, red negative"),
      one(mean, "mean of the samples, weighted by activation", "mean of what activates it"));
  }

  // Views ----------------------------------------------------------------------------------------

  // Each loads its data and returns a function that draws.

  async function showTable(run, query) {
    const [about, table] = await Promise.all([load(`${run}/about`), load(`${run}/table`)]);
    const vocabulary = about.vocabulary ?? [];
    const units = table.density.map((_, unit) => unit);
    const words = (unit) => (table.tokens?.[unit] ?? []).map((id) => visible(vocabulary[id] ?? ""));
    const haystack = units.map((unit) =>
      `${unit}\n${table.label[unit]}\n${words(unit).join("\n")}`.toLowerCase());
    const state = {
      sort: query.get("sort") ?? (table.auroc.some((value) => value !== null) ? "auroc" : "max"), down: query.get("down") !== "0",
      find: query.get("find") ?? "", dead: query.get("dead") === "1", page: Number(query.get("page") ?? 0),
    };
    const columns = [
      ["unit", "feature", (unit) => unit, (unit) => String(unit)],
      ["density", "active on", (unit) => table.density[unit], (unit) => percent(table.density[unit])],
      ["max", "strongest", (unit) => table.max[unit], (unit) => number(table.max[unit])],
      ["mean", "mean if active", (unit) => table.mean[unit], (unit) => number(table.mean[unit])],
      ["auroc", "AUROC", (unit) => table.auroc[unit] ?? 0, (unit) => ratio(table.auroc[unit])],
      ["label", "label", (unit) => table.label[unit], (unit) => table.label[unit]],
    ];
    if (RUNS > 1) {
      const partners = await Promise.all(others(run).map((other) => load(`${run}/matches-${other}`)));
      const stability = units.map((unit) =>
        partners.reduce((sum, [, cosines]) => sum + cosines[unit], 0) / partners.length);
      columns.splice(4, 0, ["stability", "in other runs", (unit) => stability[unit], (unit) => ratio(stability[unit])]);
    }
    if (table.tokens) columns.push(["tokens", "tokens", (unit) => words(unit).join(" "), (unit) => words(unit).map((word) => h("span", { class: "token" }, word))]);
    const search = h("input", {
      type: "search", id: "find", value: state.find, placeholder: "number, label or token", autocomplete: "off",
      input: () => { state.find = search.value; state.page = 0; update(); },
    });
    const dead = h("input", {
      type: "checkbox", id: "dead",
      change: () => { state.dead = dead.checked; state.page = 0; update(); },
    });
    dead.checked = state.dead;
    const count = h("p", { role: "status", class: "small" });
    const heads = columns.map(([name, title]) => h("th", { scope: "col" }, h("button", {
      type: "button",
      click: () => { state.down = state.sort === name ? !state.down : name !== "unit"; state.sort = name; state.page = 0; update(); },
    }, title)));
    const body = h("tbody");
    const pages = h("nav", { "aria-label": "Pages of the table" });
    let selected = -1;

    function found() {
      const wanted = state.find.trim().toLowerCase();
      const key = columns.find(([name]) => name === state.sort)?.[2] ?? ((unit) => unit);
      const sign = state.down ? -1 : 1;
      return units
        .filter((unit) => (!state.dead || table.density[unit] === 0) && (!wanted || haystack[unit].includes(wanted)))
        .sort((a, b) => {
          const [first, second] = [key(a), key(b)];
          return first < second ? -sign : first > second ? sign : a - b;
        });
    }

    function update() {
      const some = found();
      const last = Math.max(0, Math.ceil(some.length / PAGE) - 1);
      state.page = Math.min(state.page, last);
      const shown = some.slice(state.page * PAGE, (state.page + 1) * PAGE);
      body.replaceChildren(...shown.map((unit) => h("tr", {}, columns.map(([name, , , cell]) =>
        td(name === "unit" ? h("a", { href: `#${run}/feature/${unit}` }, String(unit)) : cell(unit))))));
      heads.forEach((head, place) => head.setAttribute("aria-sort",
        columns[place][0] !== state.sort ? "none" : state.down ? "descending" : "ascending"));
      count.textContent = `${some.length.toLocaleString("en")} of ${units.length.toLocaleString("en")} features`
        + (last ? `, page ${state.page + 1} of ${last + 1}` : "");
      const turn = (title, page) => h("button", {
        type: "button", disabled: page < 0 || page > last ? "" : null,
        click: () => { state.page = page; update(); },
      }, title);
      pages.replaceChildren(...(last ? [turn("Previous", state.page - 1), turn("Next", state.page + 1)] : []));
      select(-1);
      const link = new URLSearchParams({ sort: state.sort, down: state.down ? "1" : "0" });
      if (state.find) link.set("find", state.find);
      if (state.dead) link.set("dead", "1");
      if (state.page) link.set("page", String(state.page));
      history.replaceState(null, "", `#${run}?${link}`);
    }

    function select(place) {
      const rows = [...body.rows];
      rows[selected]?.classList.remove("selected");
      selected = rows.length ? Math.max(-1, Math.min(place, rows.length - 1)) : -1;
      rows[selected]?.classList.add("selected");
      rows[selected]?.querySelector("a").focus();
    }

    return () => {
      document.title = `Features of ${about.name}`;
      main.replaceChildren(
        h("h1", {}, `Features of ${about.name}`),
        h("p", {}, `${about.model}, ${about.units.toLocaleString("en")} units, ${about.samples}.`),
        ...[scatter(run, table)].filter(Boolean),
        h("div", { class: "tools" },
          h("label", { for: "find" }, "Search"), search, h("kbd", {}, "/"),
          h("span", {}, dead, h("label", { for: "dead" }, "only dead features"))),
        count,
        h("div", { class: "scroll" }, h("table", { class: "features" },
          h("caption", { class: "small" }, "Arrow keys choose a row, Enter opens it."),
          h("thead", {}, h("tr", {}, heads)), body)),
        pages);
      update();
      keys = {
        "/": () => { search.focus(); search.select(); },
        ArrowDown: () => select(selected + 1),
        ArrowUp: () => select(selected - 1),
        Escape: () => { search.value = state.find = ""; state.dead = dead.checked = false; update(); search.blur(); },
      };
    };
  }

  const others = (run) => [...Array(RUNS).keys()].filter((other) => other !== run);

  async function showFeature(run, unit) {
    const [about, table] = await Promise.all([load(`${run}/about`), load(`${run}/table`)]);
    if (!(unit >= 0 && unit < about.units)) throw new Error(`There is no feature ${unit}`);
    const shown = await unitOf(run, unit);
    const vocabulary = about.vocabulary ?? [];
    const linked = (other, to = run) => h("a", { href: `#${to}/feature/${other}` }, String(other));
    const gone = shown.ablation;
    const without = gone ? [["loss without it", `${gone.loss < 0 ? "" : "+"}${number(gone.loss)} nats a token, in ${gone.contexts} contexts that activate it`]] : [];
    const side = [facts(table, unit, without), pictures(shown)];
    if (shown.row) side.push(curve("encoder weights, by input", shown.row));
    side.push(histogram(shown.histogram, table.max[unit]));
    const lists = [];
    for (const does of gone ? ["less", "more"] : []) {
      const [ids, values] = gone[does];
      lists.push([`Its ablation makes ${does} likely`, ids.map((id, place) => [id, values[place]]),
        ([id, value]) => [h("span", { class: "token" }, visible(vocabulary[id] ?? "")), `${value > 0 ? "+" : ""}${number(100 * value)} %`], ["next token", "change of its probability"]]);
    }
    lists.push(
      ["Labels it tells from all others", shown.labels, ([name, value, auroc]) => [nameOf(about, name, value), ratio(auroc)], ["label", "AUROC"]],
      ["Tokens that raise it most", shown.tokens ?? [], ([id, mean, count]) => [h("span", { class: "token" }, visible(vocabulary[id] ?? "")), number(mean), count.toLocaleString("en")], ["token", "mean", "occurs"]],
      ["Nearest by direction", shown.near, ([other, cosine]) => [linked(other), ratio(cosine)], ["feature", "cosine"]],
      ["Active together", shown.together, ([other, share]) => [linked(other), percent(share)], ["feature", "of the samples of either"]],
    );
    for (const [part, title] of [["direction", "Its direction"], ["encoder", "Its encoder row"]]) {
      for (const [side, does] of [[0, "promotes"], [1, "suppresses"]]) {
        const [ids, values] = shown.effects?.[part]?.[side] ?? [[], []];
        lists.push([`${title} ${does}`, ids.map((id, place) => [id, values[place]]),
          ([id, value]) => [h("span", { class: "token" }, visible(vocabulary[id] ?? "")), number(value)], ["token", "effect"]]);
      }
    }
    if (RUNS > 1) {
      const partners = await Promise.all((await partnersOf(run, unit)).slice(1)
        .map(async ([other, partner, cosine]) => [other, (await load(`${other}/about`)).name, partner, cosine]));
      lists.push(["In the other runs", partners,
        ([other, name, partner, cosine]) => [name, linked(partner, other), ratio(cosine)], ["run", "feature", "cosine"]]);
    }
    return () => {
      document.title = `Feature ${unit} of ${about.name}`;
      main.replaceChildren(
        h("h1", {}, `Feature ${unit}`),
        h("p", { class: "small" }, `Of ${about.name}. Directions are those of ${about.decoder}.`,
          RUNS > 1 ? [" ", h("a", { href: `#${run}/compare/${unit}` }, "Compare it in all runs"), "."] : []),
        ...[run === 0 ? steer(table, unit) : null].filter(Boolean),
        h("div", { class: "columns" },
          h("div", {}, side.filter(Boolean)),
          h("div", { class: "examples" }, examples(about, table, unit, shown.examples)),
          h("div", {}, lists.map(([title, rows, cells, heads]) => rows.length ? h("section", {},
            h("h3", {}, title),
            h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
              h("tbody", {}, rows.map((row) => h("tr", {}, cells(row).map(td)))))) : null))));
      // Keys may come faster than pages: the address knows where the reader is.
      const now = () => Number(location.hash.split("/")[2]);
      const step = (by) => go(`${run}/feature/${(now() + by + about.units) % about.units}`);
      keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: () => back(run) };
    };
  }

  /** Return the feature's partner in each run, its own first: run, feature and cosine. */
  async function partnersOf(run, unit) {
    const found = await Promise.all(others(run).map(async (other) => {
      const [partner, cosines] = await load(`${run}/matches-${other}`);
      return [other, partner[unit], cosines[unit]];
    }));
    return [[run, unit, 1], ...found.filter(([, partner]) => partner >= 0)];
  }

  async function showCompare(run, unit) {
    const own = await load(`${run}/about`);
    if (!(unit >= 0 && unit < own.units)) throw new Error(`There is no feature ${unit}`);
    const columns = await Promise.all((await partnersOf(run, unit)).map(async ([other, partner, cosine]) => {
      const [about, table, shown] = await Promise.all([load(`${other}/about`), load(`${other}/table`), unitOf(other, partner)]);
      return { other, partner, cosine, about, table, shown };
    }));
    return () => {
      document.title = `Feature ${unit} of ${own.name} in all runs`;
      main.replaceChildren(
        h("h1", {}, `Feature ${unit} of ${own.name} in all runs`),
        h("p", {}, "Partners are those whose directions are most alike."),
        h("div", { class: "compared" }, columns.map(({ other, partner, cosine, about, table, shown }) => h("section", {},
          h("h2", {}, h("a", { href: `#${other}/feature/${partner}` }, `${about.name}, feature ${partner}`)),
          facts(table, partner, [["cosine", ratio(cosine)], ["best label", `${table.label[partner]}, AUROC ${ratio(table.auroc[partner])}`]]),
          pictures(shown), histogram(shown.histogram, table.max[partner]),
          list("Strongest", about, table, partner, shown.examples.strongest.slice(0, 8))))));
      const step = (by) => go(`${run}/compare/${(unit + by + own.units) % own.units}`);
      keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: () => go(`${run}/feature/${unit}`) };
    };
  }

  /** Say how well features tell labels, beside random directions that are active as often. */
  function control(pairs) {
    const [ours, random] = pairs.map((values) => [...values].sort((a, b) => a - b));
    const middle = (values) => ((values[(values.length - 1) >> 1] + values[values.length >> 1]) / 2).toFixed(3);
    const ends = (values) => `${values[0].toFixed(3)} to ${values[values.length - 1].toFixed(3)}`;
    return [
      h("h2", {}, "Labels, beside random directions"),
      h("p", {}, `The AUROC of the best label of ${ours.length} features, evenly spaced by how often they are active, and of random directions that are active as often.`),
      h("table", {},
        h("thead", {}, h("tr", {}, ["", "median", "from lowest to highest"].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, [["features", ours], ["random directions", random]].map(([name, values]) =>
          h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, middle(values)), h("td", {}, ends(values)))))),
    ];
  }

  async function showRun(run) {
    const about = await load(`${run}/about`);
    const table = await load(`${run}/table`);
    const logs = table.density.filter((density) => density > 0).map((density) => Math.log10(density));
    const counts = Array(24).fill(0);
    for (const log of logs) counts[Math.min(23, Math.max(0, Math.floor((log + 6) * 4)))]++;
    return () => {
      document.title = `Run ${about.name}`;
      main.replaceChildren(
        h("h1", {}, `Run ${about.name}`),
        h("p", {}, `${about.model}, ${about.units.toLocaleString("en")} units, ${about.samples}. Directions are those of ${about.decoder}.`),
        h("h2", {}, "Command"), h("pre", { tabindex: "0" }, about.command),
        h("h2", {}, "Metrics"),
        h("table", {}, h("tbody", {}, Object.entries(about.metrics).filter(([, value]) => value !== null).map(([name, value]) =>
          h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, number(value)))))),
        h("h2", {}, "Density"),
        h("p", {}, `Features by the share of samples on which they are active, from a millionth to all. ${about.units - logs.length} are dead.`),
        histogram(counts, 1),
        ...(about.control.length ? control(about.control) : []),
        h("h2", {}, "Training"),
        h("div", { class: "curves" }, Object.entries(about.history).map(([name, values]) => name === "epoch" ? null : curve(name, values)).filter(Boolean)),
        h("h2", {}, "Settings"), h("pre", { tabindex: "0" }, about.settings));
      keys = { Escape: () => back(run) };
    };
  }

  /** Ask the server, say what it refuses, and show an answer unless a later question was asked.
      It answers one question after another. Of those that wait, only the last is asked. */
  async function post(name, question, said, show) {
    const mine = said.asked = (said.asked ?? 0) + 1;
    said.textContent = "…";
    await said.answered;
    if (mine !== said.asked) return;
    said.answered = fetch(name, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question),
    }).then((response) => response.json()).catch(() => ({ error: "The server does not answer." }));
    const found = await said.answered;
    if (mine !== said.asked) return;
    said.textContent = found.error ?? "";
    if (!found.error) show(found);
  }

  let prompt = ""; // stays from feature to feature

  /** Offer to steer by a feature, and show what the language model then writes. */
  function steer(table, unit) {
    const top = table.max[unit];
    if (!ANSWERS.includes("steer") || !top) return null;
    const said = h("p", { role: "status", class: "small" });
    const answer = h("div", { class: "compared" });
    const text = h("textarea", { id: "prompt", rows: 2, maxlength: 2000, required: "", input: () => { prompt = text.value; } });
    text.value = prompt;
    const how = h("select", { id: "how", change: () => { place(); ask(); } },
      h("option", { value: "add" }, "add"), h("option", { value: "set" }, "set to"));
    const slider = h("input", { type: "range", id: "strength", max: 4 * top, step: top / 8, input: () => say(), change: () => soon() });
    const shown = h("output", { for: "strength" });
    const say = () => { shown.textContent = `${number(Number(slider.value))}, ${number(Number(slider.value) / top)} times its largest`; };
    const place = () => { slider.min = how.value === "set" ? 0 : -2 * top; say(); };
    const written = (title, start, end) => h("section", {}, h("h3", {}, title),
      h("p", { class: "written", dir: "auto" }, h("span", {}, start), end));
    const ask = () => {
      if (!text.value.trim()) return;
      const question = { text: text.value, unit, strength: Number(slider.value), how: how.value };
      post("steer", question, said, ({ clean, pulled }) => answer.replaceChildren(
        written("As it is", question.text, clean),
        written(`Steered: ${question.how === "set" ? "set to" : "add"} ${number(question.strength)}`, question.text, pulled)));
    };
    let timer;
    const soon = () => { clearTimeout(timer); timer = setTimeout(ask, 400); }; // keys come fast
    place();
    slider.value = 2 * top;
    say();
    return h("section", {}, h("h2", {}, "Steer"),
      h("form", { submit: (event) => { event.preventDefault(); ask(); } },
        h("p", {}, h("label", { for: "prompt" }, "A text, from which the language model goes on")), text,
        h("p", { class: "tools" }, h("label", { for: "how" }, "Its activation:"), how,
          h("label", { for: "strength" }, "strength"), slider, shown, h("button", {}, "Write"))),
      said, answer);
  }

  async function showTry() {
    const [about, table] = await Promise.all([load("0/about"), load("0/table")]);
    const vocabulary = about.vocabulary ?? [];
    const said = h("p", { role: "status", class: "small" });
    const answer = h("div", { class: "answer" });

    const ask = (question) => post("encode", question, said, (found) => {
      if (found.cut) said.textContent = "The text was cut to the length of a context.";
      answer.replaceChildren(...(about.kind === "texts" ? ofText(found) : [ofImage(found.features)]));
    });

    const rows = (pairs) => h("table", {},
      h("thead", {}, h("tr", {}, ["feature", "activation", "label"].map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, pairs.map(([unit, value]) => h("tr", {},
        h("td", {}, h("a", { href: `#0/feature/${unit}` }, String(unit))), h("td", {}, number(value)), h("td", {}, table.label[unit])))));

    function ofImage(features) {
      return h("section", {}, h("h2", {}, `${features.length} active features`), rows(features));
    }

    /** Show the tokens, coloured by one feature, and the features of the whole text. */
    function ofText({ ids, features }) {
      const strongest = new Map();
      for (const own of features) for (const [unit, value] of own ?? []) strongest.set(unit, Math.max(value, strongest.get(unit) ?? 0));
      const order = [...strongest].sort((a, b) => b[1] - a[1]);
      const words = h("div", { class: "words", dir: "auto" });
      const title = h("h2", {});
      const list = h("div", {});

      function colour(unit) {
        title.textContent = unit === undefined ? "No feature is active" : `Tokens by feature ${unit}`;
        words.replaceChildren(...ids.map((id, place) => {
          const value = features[place]?.find(([other]) => other === unit)?.[1] ?? 0;
          const span = h("button", {
            type: "button", class: features[place] === null ? "token left-out" : value > 0 ? "token active" : "token",
            title: features[place] === null ? "left out of the data" : `activation ${number(value)}`,
            click: () => list.replaceChildren(h("h2", {}, "Features of the token ", h("span", { class: "token" }, visible(vocabulary[id] ?? ""))), rows(features[place] ?? [])),
          }, visible(vocabulary[id] ?? `‹${id}›`));
          if (value > 0) span.style.setProperty("--share", String(Math.min(1, value / (table.max[unit] || 1))));
          return span;
        }));
      }
      colour(order[0]?.[0]);
      const choices = h("select", { id: "unit", change: () => colour(Number(choices.value)) },
        order.map(([unit, value]) => h("option", { value: unit }, `${unit}: ${number(value)} ${table.label[unit]}`)));
      list.replaceChildren(h("h2", {}, "Features of the text"), rows(order.slice(0, 50)));
      return [title, h("p", {}, h("label", { for: "unit" }, "Colour by feature "), choices), words, list];
    }

    function paper() {
      const [height, width] = about.shape;
      const cells = new Float64Array(height * width);
      const canvas = h("canvas", { width, height, class: "paper", role: "img", "aria-label": "Draw here" });
      const context = canvas.getContext("2d");
      const paint = () => {
        const pixels = context.createImageData(width, height);
        cells.forEach((value, place) => pixels.data.set([255 * value, 255 * value, 255 * value, 255], 4 * place));
        context.putImageData(pixels, 0, 0);
      };
      const draw = (event) => {
        if (!event.buttons) return;
        const box = canvas.getBoundingClientRect();
        const [column, row] = [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
        for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
          const near = 1.4 - Math.hypot(x + 0.5 - column, y + 0.5 - row) / 1.2;
          cells[y * width + x] = Math.min(1, Math.max(cells[y * width + x], near));
        }
        paint();
      };
      const send = () => ask({ pixels: [...cells] });
      for (const name of ["pointerdown", "pointermove"]) canvas.addEventListener(name, draw);
      canvas.addEventListener("pointerup", send);
      paint();
      return [canvas, h("p", {}, h("button", { type: "button", click: () => { cells.fill(0); paint(); answer.replaceChildren(); } }, "Clear"))];
    }

    function writing() {
      const text = h("textarea", { id: "text", rows: 4, maxlength: 2000, required: "" });
      const form = h("form", { submit: (event) => { event.preventDefault(); ask({ text: text.value }); } },
        h("p", {}, h("label", { for: "text" }, "A text")), text, h("p", {}, h("button", {}, "Encode")));
      return [form];
    }

    return () => {
      document.title = `Try ${about.name}`;
      main.replaceChildren(h("h1", {}, "Try it"),
        h("p", {}, about.kind === "texts" ? "Write a text. The language model reads it, and you see what its tokens activate." : "Draw. You see which features are active."),
        ...(about.kind === "texts" ? writing() : paper()), said, answer);
      keys = { Escape: () => back(0) };
    };
  }

  // Navigation -----------------------------------------------------------------------------------

  let lastTable = "0";
  const go = (place) => { location.hash = place; };
  const back = (run) => go(lastTable.startsWith(`${run}`) ? lastTable : String(run));

  let turn = 0; // number of the view that was asked for last

  async function show() {
    const [path, query] = location.hash.slice(1).split("?");
    if (path === "main") return; // the link that skips to the content
    const mine = ++turn;
    const [first, view, unit] = path.split("/");
    const run = Number(first || 0);
    try {
      if (!(run >= 0 && run < RUNS)) throw new Error(`There is no run ${first}`);
      const draw = view === "feature" ? await showFeature(run, Number(unit))
        : view === "compare" ? await showCompare(run, Number(unit))
          : view === "run" ? await showRun(run)
          : view === "try" && ANSWERS.includes("encode") ? await showTry()
          : await showTable(run, new URLSearchParams(query));
      const drawNav = await showNav(run, view);
      if (mine !== turn) return;
      draw();
      drawNav();
      if (view) { window.scrollTo(0, 0); main.focus({ preventScroll: true }); }
    } catch (error) {
      keys = {};
      main.replaceChildren(h("h1", {}, "Nothing to show"), h("p", {}, error.message), h("p", {}, h("a", { href: "#0" }, "All features")));
    }
  }

  async function showNav(run, view) {
    const names = await Promise.all([...Array(RUNS).keys()].map(async (other) => (await load(`${other}/about`)).name));
    const link = (place, title, current) => h("a", { href: `#${place}`, "aria-current": current ? "page" : null }, title);
    return () => document.getElementById("nav").replaceChildren(...names.flatMap((name, other) => [
      link(String(other), RUNS > 1 ? `Features of ${name}` : "Features", other === run && !view),
      link(`${other}/run`, RUNS > 1 ? `Run ${name}` : "Run", other === run && view === "run"),
    ]), ...(ANSWERS.includes("encode") ? [link("0/try", "Try it", view === "try")] : []));
  }

  addEventListener("hashchange", (event) => {
    const before = new URL(event.oldURL).hash.slice(1);
    if (!before.includes("/")) lastTable = before || "0";
    show();
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input[type=search], input[type=range], textarea, select");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing && !["Escape", "ArrowDown"].includes(event.key)) return;
    const action = keys[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  show();
})();
