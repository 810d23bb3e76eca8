// Search with before and after side by side, rank moves between them, where the time went, and controls that answer at
// once. Knows: /v1/search for an index, /v1/rerank for pasted documents; both become rows of one kind.

import { answered, ask } from "./api.js";
import { beginning, counted, h, milliseconds, problem, put, svg, whole, words } from "./dom.js";
import { explain } from "./heat.js";

export const title = "Search";
export const KEYS = [
  ["j, k or ↓, ↑", "to the next, the previous result"],
  ["Enter", "explain it"],
];

const DEPTHS = [5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500]; // and the most that the server takes
const TIMES = [0, 25, 50, 100, 150, 200, 300, 500, 1000, 2000, 5000, null]; // milliseconds; null, at the end: no limit
const LONG = 600_000; // milliseconds: no limit, where the server has one for those that name none
const SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];
const WAIT = 180; // milliseconds after the last change
const LINK = 4000; // characters of pasted documents that still go into a link
const PASTED = "secondpass-pasted";
const EXAMPLE = {
  query: "how warm is it inside a beehive",
  texts: [
    "The hive stands at the edge of the orchard; on warm days its roof is taken off and painted.",
    "Beehive was the name of a hairstyle of the sixties, and of the salon in our street.",
    "It was so warm that the honey ran out of the jars on the market.",
    "A colony swarms in late spring, when the hive has become too small for it.",
    "Inside, the bees keep the brood at about thirty-five degrees Celsius, in summer as in winter.",
    "Bees see ultraviolet light, which shows them lines on petals that we cannot see.",
  ],
};

let rows = []; // buttons of the reranked column, for the keyboard

export async function show(root, { status, values, remember }) {
  const models = (await ask("/v1/models")).data;
  const known = new Map(models.map((one) => [one.id, one]));
  const stages = status.search ? status.search.stages : [];
  const usual = stages.length ? stages[stages.length - 1] : null;
  const most = status.limits.documents;
  const depths = among([...DEPTHS.filter((one) => one < most), Math.min(most, 1000)], usual?.depth);
  const times = among(TIMES, status.deadline_ms);
  const state = {
    q: values.get("q") || "",
    from: status.search && values.get("from") !== "pasted" ? "index" : "pasted",
    model: known.has(values.get("model")) ? values.get("model") : known.has(usual?.name) ? usual.name : models[0].id,
    depth: nearest(depths, values.get("depth") || usual?.depth || 50),
    time: values.has("time") ? nearest(times, values.get("time")) : status.deadline_ms,
    share: nearest(SHARES, values.get("exits") || 1),
    pasted: values.get("documents") ?? sessionStorage.getItem(PASTED) ?? "",
  };

  // the form
  const query = h("input", {
    id: "query",
    type: "search",
    value: state.q,
    placeholder: "Ask something",
    "aria-label": "Query",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: status.limits.query,
  });
  const model = h(
    "select",
    { id: "model" },
    models.map((one) => h("option", { value: one.id, selected: one.id === state.model }, one.id)),
  );
  const depth = slider("depth", "Depth", depths, state.depth, (value) => `${value}`);
  const time = slider("time", "Time", times, state.time, (value) =>
    value === null ? "no limit" : `${whole(value)} ms`,
  );
  const share = slider("exits", "All layers for", SHARES, state.share, (value) =>
    value === 1 ? "all" : `${Math.round(100 * value)} %`,
  );
  const pasted = h("textarea", {
    id: "pasted",
    rows: 7,
    value: state.pasted,
    spellcheck: "false",
    "aria-describedby": "pasted-how",
  });
  const source = h(
    "fieldset.source",
    {},
    h("legend", {}, "Candidates from"),
    ["index", "pasted"].map((name) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "from",
          value: name,
          checked: state.from === name,
          disabled: name === "index" && !status.search,
        }),
        name === "index" ? (status.search ? status.search.first_stage : "an index (none here)") : "documents I paste",
      ),
    ),
  );
  const paste = h(
    "div.paste",
    {},
    h("label", { for: "pasted" }, "Documents, in the order of a first stage"),
    pasted,
    h(
      "p.quiet",
      { id: "pasted-how" },
      "A blank line between two of them; or a line of JSON each, with text and, if you like, title and score. ",
      h("button.link", { type: "button", onclick: example }, "Try an example"),
    ),
    status.search
      ? null
      : h(
          "p.quiet",
          {},
          "This server has no index to search. Start it with one: ",
          h("code", {}, "secondpass ui my-index"),
        ),
  );
  const summary = h("p.summary", { role: "status" });
  const notes = h("ul.notes", {});
  const waterfall = h("figure.waterfall", { hidden: true });
  const columns = h("div.columns", { hidden: true });
  const form = h(
    "form",
    {
      role: "search",
      onsubmit: (event) => (event.preventDefault(), later(0)),
      oninput: () => later(WAIT),
      onchange: () => later(WAIT),
    },
    query,
    h(
      "div.controls",
      {},
      source,
      h("div.control", {}, h("label", { for: "model" }, "Model"), model),
      depth.element,
      time.element,
      share.element,
    ),
    paste,
  );
  put(root, h("h1.hidden", {}, "Search"), form, summary, notes, waterfall, columns);
  if (!state.q) query.focus();

  // one request at a time: a change ends the one before, and only the latest answer is shown
  let timer = 0;
  let running = null;
  let drawn = null;
  function later(wait) {
    clearTimeout(timer);
    read();
    timer = setTimeout(run, wait);
  }

  function read() {
    Object.assign(state, {
      q: query.value,
      from: new FormData(form).get("from") || state.from,
      model: model.value,
      depth: depth.value(),
      time: time.value(),
      share: share.value(),
      pasted: pasted.value,
    });
    paste.hidden = state.from !== "pasted";
    const one = known.get(state.model);
    share.element.hidden = one !== undefined && one.open && !one.exits;
    try {
      sessionStorage.setItem(PASTED, state.pasted);
    } catch {
      sessionStorage.removeItem(PASTED); // more than a browser keeps: a reload forgets it
    }
    const fits = state.from === "pasted" && state.pasted.length <= LINK;
    remember({
      q: state.q,
      from: status.search && state.from === "pasted" ? "pasted" : "",
      model: models.length > 1 ? state.model : "",
      depth: state.depth === nearest(depths, usual?.depth || 50) ? "" : state.depth,
      time: state.time === status.deadline_ms ? "" : (state.time ?? "none"),
      exits: state.share === 1 ? "" : state.share,
      documents: fits ? state.pasted : "",
    });
  }

  function example() {
    query.value = EXAMPLE.query;
    pasted.value = EXAMPLE.texts.join("\n\n");
    later(0);
  }

  async function run() {
    running?.abort();
    const mine = (running = new AbortController());
    const asked = { ...state };
    if (!asked.q.trim()) return clear(asked.from === "index" ? "Type a query." : "Type a query and paste documents.");
    root.setAttribute("aria-busy", "true");
    const began = performance.now();
    try {
      const found =
        asked.from === "index"
          ? await searched(asked, mine.signal, status)
          : await reranked(asked, mine.signal, status);
      if (running !== mine) return;
      if (found === null) return clear("Paste documents to rerank.");
      draw({ ...found, asked, took: performance.now() - began });
    } catch (error) {
      if (error.name === "AbortError" || running !== mine) return;
      clear("");
      put(summary, problem(error));
    } finally {
      if (running === mine) root.removeAttribute("aria-busy");
    }
  }

  function clear(said) {
    root.removeAttribute("aria-busy");
    put(summary, said);
    put(notes);
    columns.hidden = waterfall.hidden = true;
    rows = [];
  }

  function draw(found) {
    put(summary, said(found));
    put(
      notes,
      found.notes.map((note) => h("li", {}, note)),
    );
    put(waterfall, ...bars(found));
    waterfall.hidden = false;
    drawn?.disconnect();
    drawn = sides(columns, found, (rank) => explain(found, rank, known.get(found.model)));
    columns.hidden = found.after.length === 0;
  }

  read();
  if (state.q) run();
  else clear(state.from === "index" ? "Type a query." : "Type a query and paste documents.");
  return () => {
    clearTimeout(timer);
    running?.abort();
    drawn?.disconnect();
    rows = [];
  };
}

export function pressed(event) {
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (!step || !rows.length || event.target.closest("input[type=range]")) return false;
  const now = rows.indexOf(document.activeElement);
  rows[Math.min(Math.max(now + step, 0), rows.length - 1)].focus();
  return true;
}

// the controls

// the stops, and what the server is set to, which need not be one
function among(stops, value) {
  const known = stops.filter((one) => one !== null);
  if (typeof value === "number" && !known.includes(value)) known.push(value);
  return [...known.sort((a, b) => a - b), ...(stops.includes(null) ? [null] : [])];
}

function nearest(stops, value) {
  if (value === null || value === "none" || value === undefined)
    return stops.includes(null) ? null : stops[stops.length - 1];
  const wanted = Number(value);
  if (!Number.isFinite(wanted)) return stops[stops.length - 1];
  return stops
    .filter((one) => one !== null)
    .reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
}

function slider(id, name, stops, value, worded) {
  const output = h("output", { for: id });
  const input = h("input", { id, type: "range", min: 0, max: stops.length - 1, step: 1, value: stops.indexOf(value) });
  const now = () => stops[Number(input.value)];
  const tell = () => {
    output.textContent = worded(now());
    input.setAttribute("aria-valuetext", worded(now()));
  };
  input.addEventListener("input", tell);
  tell();
  return { element: h("div.control", {}, h("label", { for: id }, name, " ", output), input), value: now };
}

// what the server is asked, and its answers as rows: { key, id, title, text, score, first_rank, first_score, relevance, status }

async function searched(asked, signal, status) {
  const candidates = Math.max(asked.depth, status.search.candidates || 0);
  const body = { query: asked.q, top_k: candidates };
  if (status.search.stages.length) {
    Object.assign(body, { depth: asked.depth, model: asked.model });
    if (asked.share < 1) body.go_on = asked.share;
  }
  limit(body, asked, status);
  const { answer, timing } = await timed("/v1/search", body, signal);
  const after = answer.results.map((one) => ({ ...one, key: one.id, relevance: one.relevance_score }));
  const before = after.filter((one) => one.first_rank !== null).sort((a, b) => a.first_rank - b.first_rank);
  const removed = answer.trace.flatMap((step) => Object.entries(step.removed));
  const notes = answer.trace.filter((step) => step.because).map((step) => `${step.name}: ${step.because}.`);
  if (removed.length)
    notes.push(
      `${counted(removed.length, "document")} removed by selection: ${removed.map(([id, why]) => `${id} (${why})`).join(", ")}.`,
    );
  return { before, after, notes, timing, model: asked.model, trace: answer.trace, query: asked.q };
}

function limit(body, asked, status) {
  if (asked.time !== null) body.deadline_ms = asked.time;
  else if (status.deadline_ms !== null) body.deadline_ms = LONG;
}

async function reranked(asked, signal, status) {
  const documents = parsed(asked.pasted);
  if (!documents.length) return null;
  const body = { query: asked.q, documents: documents.slice(0, asked.depth), model: asked.model };
  limit(body, asked, status);
  if (asked.share < 1) body.go_on = asked.share;
  const { answer, timing } = await timed("/v1/rerank", body, signal);
  const before = documents.map((one, at) => ({
    key: at, // ids that were pasted need not be different
    id: String(one.id ?? at + 1),
    title: typeof one.title === "string" ? one.title : "",
    text: String(one.text ?? ""),
    score: null,
    first_rank: at + 1,
    first_score: typeof one.score === "number" ? one.score : null,
    relevance: null,
    status: "beyond_depth",
  }));
  const after = answer.results.map((one) =>
    Object.assign(before[one.index], { relevance: one.relevance_score, status: one.status || "scored" }),
  );
  after.push(...before.slice(asked.depth));
  return {
    before,
    after,
    notes: answer.meta.warnings || [],
    timing,
    model: answer.model,
    trace: answer.report.trace,
    query: asked.q,
  };
}

async function timed(path, body, signal) {
  const response = await answered(path, body, signal);
  const timing = {};
  for (const part of (response.headers.get("Server-Timing") || "").split(",")) {
    const [name, value] = part.trim().split(";dur=");
    if (value) timing[name] = Number(value);
  }
  return { answer: await response.json(), timing };
}

// pasted texts: JSON a line where every line is an object, else paragraphs
function parsed(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  try {
    const objects = lines.map((line) => JSON.parse(line));
    if (objects.length && objects.every((one) => one && typeof one === "object" && !Array.isArray(one))) return objects;
  } catch {
    // plain text, then
  }
  return text
    .split(/\n\s*\n/)
    .map((one) => one.trim())
    .filter(Boolean)
    .map((one) => ({ text: one }));
}

// what became of it, in words

function said({ before, after, trace, took, model }) {
  if (!after.length) return "Nothing was found.";
  const scored = after.filter((one) => one.status === "scored").length;
  const moved = after.filter((one, at) => one.first_rank !== at + 1).length;
  const left = new Map();
  for (const one of after) if (one.status !== "scored") left.set(one.status, (left.get(one.status) || 0) + 1);
  const cut = trace.reduce((sum, step) => sum + step.truncated, 0);
  const parts = [`${counted(before.length, "candidate")}`, `${whole(scored)} scored by ${model}`];
  for (const [status, count] of left) parts.push(`${whole(count)} not: ${words(status)}`);
  if (cut) parts.push(`${whole(cut)} longer than it reads`);
  for (const step of trace)
    for (const [layer, count] of Object.entries(step.exits)) parts.push(`${whole(count)} ended at ${layer}`);
  parts.push(`${whole(moved)} moved`, milliseconds(took));
  return parts.join(" · ");
}

// where the time went, one bar after the other

function bars({ trace, timing, took, asked }) {
  const total = Math.max(took, timing.total || 0);
  const stages = trace.map((step) => ({ name: step.name, ms: 1000 * step.seconds, told: inside(step) }));
  const known = stages.reduce((sum, one) => sum + one.ms, timing.read || 0);
  const steps = [
    { name: "network", ms: Math.max(took - (timing.total || 0), 0), told: "" },
    { name: "read", ms: timing.read || 0, told: "" },
    ...stages,
    { name: "waiting, writing", ms: Math.max((timing.total || 0) - known, 0), told: "" },
  ];
  const limit = asked.time !== null && asked.time <= total ? asked.time : null;
  let start = 0;
  const lines = steps.map((step) => {
    const line = h(
      "tr",
      {},
      h("th", { scope: "row" }, step.name),
      h(
        "td.bar",
        {},
        h("i", { style: { left: `${(100 * start) / total}%`, width: `${Math.max((100 * step.ms) / total, 0.3)}%` } }),
        limit === null ? null : h("b", { style: { left: `${(100 * limit) / total}%` } }),
      ),
      h("td.number", {}, milliseconds(step.ms)),
      h("td.told", {}, step.told),
    );
    start += step.ms;
    return line;
  });
  const caption =
    limit === null
      ? "Where the time went"
      : `Where the time went; the upright line is the limit of ${milliseconds(limit)}`;
  return [h("table", {}, h("caption", {}, caption), h("tbody", {}, lines))];
}

function inside(step) {
  const named = { wait: "waiting", tokenize: "tokenizing", inference: "inference" };
  const parts = Object.entries(step.parts).map(([name, seconds]) => `${named[name]} ${milliseconds(1000 * seconds)}`);
  if (step.tokens) parts.push(counted(step.tokens, "token"));
  if (step.engine) parts.push(`${step.engine} ${step.precision}`.trim());
  return parts.length ? `${parts.join(" · ")}` : "";
}

// both orders, and lines between them

function sides(root, { before, after }, open) {
  const placed = new Map(after.map((one, at) => [one.key, at]));
  const from = new Map(before.map((one, at) => [one.key, at]));
  const left = before.map((one, at) =>
    row(one, at, placed.has(one.key) ? null : "removed", () => open(placed.get(one.key))),
  );
  const right = after.map((one, at) => row(one, at, at, () => open(at)));
  rows = right;
  const lines = svg("svg.lines", { "aria-hidden": "true", preserveAspectRatio: "none" });
  const paths = after.map((one, at) => {
    if (!from.has(one.key)) return null;
    const move = from.get(one.key) - at;
    return svg(`path.${move > 0 ? "up" : move < 0 ? "down" : "same"}`, { "vector-effect": "non-scaling-stroke" });
  });
  lines.append(...paths.filter(Boolean));
  const light = (key, on) => {
    for (const one of [left[from.get(key)], right[placed.get(key)], paths[placed.get(key)]])
      one?.classList.toggle("lit", on);
  };
  const listed = (some, buttons) =>
    h(
      "ol",
      {},
      buttons.map((button, at) => {
        const key = some[at].key;
        for (const name of ["mouseenter", "focus"]) button.addEventListener(name, () => light(key, true));
        for (const name of ["mouseleave", "blur"]) button.addEventListener(name, () => light(key, false));
        return h("li", {}, button);
      }),
    );
  put(
    root,
    h(
      "section.before",
      { "aria-labelledby": "before-title" },
      h("h2", { id: "before-title" }, "First stage"),
      listed(before, left),
    ),
    h("div.between", {}, lines),
    h(
      "section.after",
      { "aria-labelledby": "after-title" },
      h("h2", { id: "after-title" }, "Reranked"),
      listed(after, right),
    ),
  );
  const fit = () => {
    const row = right[0]?.parentElement.getBoundingClientRect().height || 1; // not rounded
    const top = right[0] ? right[0].parentElement.offsetTop - lines.parentElement.offsetTop : 0;
    const height = row * Math.max(before.length, after.length);
    lines.setAttribute("viewBox", `0 0 100 ${height}`);
    lines.style.setProperty("height", `${height}px`);
    lines.style.setProperty("top", `${top}px`);
    after.forEach((one, at) => {
      const y = (from.get(one.key) + 0.5) * row;
      const to = (at + 0.5) * row;
      paths[at]?.setAttribute("d", `M0 ${y} C 50 ${y}, 50 ${to}, 100 ${to}`);
    });
  };
  const watched = new ResizeObserver(fit);
  watched.observe(root);
  fit();
  return watched;
}

// a result; `at` is its place after reranking, null for the column before
function row(one, place, at, open) {
  const text = one.title || beginning(one.text, 240) || "(no text)";
  const body = h(
    "span.words",
    {},
    h(one.title ? "b" : "span", {}, text),
    one.title ? h("span.quiet", {}, beginning(one.text, 160)) : null,
  );
  if (at === null || at === "removed") {
    const score = one.first_score === null ? "" : whole3(one.first_score);
    return h(
      "button.row",
      { type: "button", disabled: at === "removed", onclick: open },
      h("span.rank", {}, String(one.first_rank ?? place + 1)),
      body,
      h("span.score", {}, at ?? score),
    );
  }
  const move = (one.first_rank ?? place + 1) - (place + 1);
  const scored = one.status === "scored";
  const moved =
    move > 0 ? h("span.up", {}, `▲ ${move}`) : move < 0 ? h("span.down", {}, `▼ ${-move}`) : h("span.same", {}, "=");
  const said = move > 0 ? `up ${move}` : move < 0 ? `down ${-move}` : "as before";
  return h(
    "button.row",
    { type: "button", onclick: open, class: scored ? "row" : "row unscored" },
    h("span.rank", {}, String(place + 1)),
    body,
    h(
      "span.score",
      {},
      scored
        ? [
            one.relevance < 0.0005 ? "< .001" : one.relevance.toFixed(3),
            h("i.meter", { style: { "--share": one.relevance } }),
          ]
        : words(one.status),
    ),
    h("span.move", { title: said }, moved, h("span.hidden", {}, `, ${said}`)),
  );
}

function whole3(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2);
}
