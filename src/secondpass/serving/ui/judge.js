// Judging with keys, over the store that `secondpass judge` uses: a grade is on disk before the next document is shown.
// Knows: /v1/judging. Who ranked a document is not shown.

import { ask } from "./api.js";
import { counted, h, problem, put, unset, whole } from "./dom.js";

export const title = "Judge";
export const KEYS = [
  ["0 … 3", "give this grade"],
  ["u", "take back your last grade"],
  ["n or →, p or ←", "next, previous document"],
  ["s", "to the next one that you have not judged"],
  ["m", "write a note"],
];
const NAME = "secondpass-judge";
const COMMON = new Set(
  "a an and are as at be by can did do does for from has have how in is it of on or that the to was what when where which who why with".split(
    " ",
  ),
);

let screen = null;

export function pressed(event) {
  return screen !== null && screen(event.key);
}

export async function show(root, { status, values, remember }) {
  screen = null;
  if (!status.judging) {
    put(
      root,
      h("h1", {}, "Judge"),
      unset(
        "Nothing to judge here",
        [
          "An audit needs to know which documents are relevant. Where nobody has said so, draw a sample of queries and judge it.",
          "Then start the server with the folder: serve.pool in the settings, or",
        ],
        ["secondpass audit --collection my-collection --sample 50 --pool pool", "secondpass ui pool"],
      ),
    );
    return null;
  }
  const name = values.get("judge") || localStorage.getItem(NAME) || "";
  if (!name) {
    asksName(root);
    return null;
  }
  localStorage.setItem(NAME, name);
  remember({ judge: name });
  await judges(root, name);
  return () => {
    screen = null;
  };
}

function asksName(root) {
  const field = h("input", { id: "judge", required: true, maxlength: 200, autocomplete: "username" });
  put(
    root,
    h("h1", {}, "Judge"),
    h(
      "form",
      {
        onsubmit: (event) => (
          event.preventDefault(),
          (location.hash = `#/judge?judge=${encodeURIComponent(field.value.trim())}`)
        ),
      },
      h("p", {}, "Who judges? The name goes beside every grade, so that two people can be told apart."),
      h("p", {}, h("label", { for: "judge" }, "Name "), field, " ", h("button", {}, "Begin")),
    ),
  );
  field.focus();
}

async function judges(root, name) {
  const all = await ask(`/v1/judging?judge=${encodeURIComponent(name)}`);
  const places = all.queries.flatMap((query, number) =>
    query.documents.map((one, at) => ({ query, number, at, id: one.id })),
  );
  const grades = new Map(
    all.queries.flatMap((query) =>
      query.documents.filter((one) => one.grade !== null).map((one) => [key(query.query_id, one.id), one.grade]),
    ),
  );
  const texts = new Map(); // query id -> promise of its documents
  const load = (id) => {
    if (!texts.has(id)) {
      const asked = ask(`/v1/judging/query?judge=${encodeURIComponent(name)}&query_id=${encodeURIComponent(id)}`);
      texts.set(id, asked);
      asked.catch(() => texts.delete(id)); // the next one who needs them asks again
    }
    return texts.get(id);
  };
  let at = Math.max(
    places.findIndex((one) => !judged(one)),
    0,
  );
  let seen = null; // the place that is shown: nothing else is graded
  let busy = false;
  let told = "";

  function judged(one) {
    return grades.has(key(one.query.query_id, one.id));
  }

  function open(from) {
    for (let step = 1; step <= places.length; step++) {
      const next = (from + step) % places.length;
      if (!judged(places[next])) return next;
    }
    return null;
  }

  async function send(path, body) {
    if (busy) return null;
    busy = true;
    try {
      return await ask(path, { judge: name, ...body });
    } catch (error) {
      put(said, problem(error));
      return null;
    } finally {
      busy = false;
    }
  }

  async function grade(value) {
    if (seen !== at) return;
    const here = places[at];
    const kept = await send("/v1/judging", { query_id: here.query.query_id, document_id: here.id, grade: value });
    if (!kept) return;
    grades.set(key(here.query.query_id, here.id), value);
    told = `kept: ${value}, ${all.scale[value].name}`;
    const next = open(at);
    if (next === null) end();
    else go(next);
  }

  async function undo() {
    const taken = await send("/v1/judging/undo", {});
    if (!taken) return;
    if (taken.query_id === null) {
      told = "there is no grade of yours to take back";
    } else {
      grades.delete(key(taken.query_id, taken.document_id));
      const found = places.findIndex((one) => one.query.query_id === taken.query_id && one.id === taken.document_id);
      at = Math.max(found, 0);
      told = "taken back; judge it again";
    }
    go(at);
  }

  async function note() {
    const here = places[at];
    const one = await current();
    const words = await noteAsked(one.note);
    if (words === null) return;
    const value = grades.get(key(here.query.query_id, here.id)) ?? null;
    if (await send("/v1/judging", { query_id: here.query.query_id, document_id: here.id, grade: value, note: words })) {
      one.note = words;
      told = "noted";
      go(at);
    }
  }

  async function current() {
    const here = places[at];
    return (await load(here.query.query_id)).documents[here.at];
  }

  const said = h("p.told", { role: "status" });
  const where = h("p.kicker", {});
  const bar = h("progress", { max: places.length, "aria-label": "Judged" });
  const query = h("h1", {});
  const heading = h("h2", {});
  const body = h("div.document", { tabindex: 0, role: "region", "aria-label": "The document" });
  const noted = h("p.quiet", {});
  const buttons = h(
    "div.grades",
    { role: "group", "aria-label": "Grade" },
    all.scale.map((one) =>
      h(
        "button",
        { type: "button", title: one.meaning, onclick: () => grade(one.grade) },
        h("kbd", {}, String(one.grade)),
        h("span", {}, h("b", {}, one.name), h("span.quiet", {}, one.meaning)),
      ),
    ),
  );
  const others = h(
    "div.buttons",
    {},
    [
      ["p", "previous", () => go(at - 1)],
      ["n", "next", () => go(at + 1)],
      ["s", "not judged yet", () => skip()],
      ["u", "undo", undo],
      ["m", "note", note],
    ].map(([letter, word, does]) => h("button", { type: "button", onclick: does }, h("kbd", {}, letter), ` ${word}`)),
  );
  const shown = h("div", {}, query, heading, body, noted);
  const foot = h("details.progress", {}, h("summary", {}, "Everybody's judgments"), everybody(all));
  put(
    root,
    where,
    bar,
    shown,
    buttons,
    others,
    said,
    all.notes.length
      ? h(
          "ul.notes",
          {},
          all.notes.map((one) => h("li", {}, one)),
        )
      : null,
    foot,
  );

  function skip() {
    const next = open(at);
    if (next === null) end();
    else go(next);
  }

  async function go(to) {
    at = (to + places.length) % places.length;
    seen = null;
    const [here, mine] = [places[at], at];
    try {
      const one = await current();
      if (mine !== at) return;
      shown.hidden = false;
      seen = at;
      const bold = emphasis(here.query.query);
      where.textContent = `${name} · query ${here.number + 1} of ${all.queries.length}, document ${here.at + 1} of ${here.query.documents.length} · ${whole(grades.size)} of ${counted(places.length, "document")} judged`;
      bar.value = grades.size;
      put(query, here.query.query);
      put(heading, one.title ? bold(one.title) : "");
      heading.hidden = !one.title;
      put(body, one.text.trim() ? bold(one.text) : h("span.quiet", {}, "(no text)"));
      body.scrollTop = 0;
      noted.textContent = one.note ? `Note: ${one.note}` : "";
      const given = grades.get(key(here.query.query_id, here.id));
      [...buttons.children].forEach((button, value) => button.setAttribute("aria-pressed", String(value === given)));
      said.textContent = told;
      told = "";
    } catch (error) {
      put(said, problem(error));
    }
    const next = open(at);
    if (next !== null) load(places[next].query.query_id).catch(() => {});
  }

  function end() {
    seen = null;
    bar.value = grades.size;
    where.textContent = `${name} · all ${counted(places.length, "document")} judged`;
    shown.hidden = true;
    said.replaceChildren(
      `${told ? `${told}. ` : ""}Every document is judged. Write the judgments down, and audit with them: `,
      h("code", {}, `secondpass judge ${all.folder} --export judged.tsv`),
    );
  }

  screen = (letter) => {
    if (/^[0-9]$/.test(letter)) {
      if (Number(letter) < all.scale.length) grade(Number(letter));
      return true;
    }
    const does = {
      u: undo,
      n: () => go(at + 1),
      ArrowRight: () => go(at + 1),
      p: () => go(at - 1),
      ArrowLeft: () => go(at - 1),
      s: skip,
      m: note,
    }[letter];
    does?.();
    return does !== undefined;
  };
  if (!places.length) put(root, h("h1", {}, "Judge"), h("p", {}, "The pool holds no documents."));
  else if (places.every(judged)) end();
  else await go(at);
}

// what is noted on a document; null where it was closed
function noteAsked(now) {
  const field = h("textarea", { rows: 3, maxlength: 10000, value: now, "aria-labelledby": "note-title" });
  const dialog = document.body.appendChild(
    h(
      "dialog",
      { "aria-labelledby": "note-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "note-title" }, "Note on this document"),
        field,
        h("div.buttons", {}, h("button", { value: "ok" }, "Keep"), h("button.plain", { value: "" }, "Not now")),
      ),
    ),
  );
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "ok" ? field.value : null);
    });
    dialog.showModal();
  });
}

function key(query, document) {
  return JSON.stringify([query, document]);
}

// a text with the words of the query in bold: found by their letters, put in as text
function emphasis(query) {
  const wanted = [...new Set(query.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [])].filter(
    (word) => word.length > 1 && !COMMON.has(word),
  );
  const stem = (word) => word.toLowerCase().replace(/(ing|ed|es|s)$/, "");
  const stems = new Set(wanted.map(stem));
  return (text) =>
    text.split(/([\p{L}\p{N}]+)/u).map((part, at) => (at % 2 && stems.has(stem(part)) ? h("b", {}, part) : part));
}

function everybody(all) {
  const rows = Object.entries(all.progress).map(([name, one]) => [
    name,
    `${whole(one.judged)} of ${whole(one.documents)}`,
    `${whole(one.complete)} of ${whole(one.queries)}`,
  ]);
  const alike = all.agreement.map((one) =>
    h(
      "p",
      {},
      `${one.judges.join(" and ")}: ${counted(one.documents, "document")} judged by both, ${Math.round(100 * one.same)} % alike${one.kappa === null ? "" : `, κ ${one.kappa.toFixed(2)}`}.`,
    ),
  );
  if (!rows.length) return h("p.quiet", {}, "None yet.");
  return [
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["judge", "documents", "queries complete"].map((one) => h("th", { scope: "col" }, one)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell) => h("td", {}, cell)),
          ),
        ),
      ),
    ),
    alike,
  ];
}
