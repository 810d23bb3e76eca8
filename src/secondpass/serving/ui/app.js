// The shell: which view is shown, the theme, shortcuts, the key, and whether the server is well.
// Knows: the views by their names in the address. Refuses to know: what any of them shows.

import { ask, hasKey, keep, onKeyNeeded } from "./api.js";
import { h, problem, put } from "./dom.js";
import * as audits from "./audits.js";
import * as compare from "./compare.js";
import * as judge from "./judge.js";
import * as live from "./live.js";
import * as search from "./search.js";

const VIEWS = { search, live, judge, audits, compare };
const LETTERS = { s: "search", l: "live", j: "judge", a: "audits", c: "compare" };
const SOON = 2000; // milliseconds until a server that is not ready is looked at again
const THEMES = ["auto", "light", "dark"];
const main = document.getElementById("main");
let view = search;
let leave = () => {};
let goingTo = false;

// the theme

function showTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.textContent = name;
  button.setAttribute("aria-label", `Theme: ${name}. Change it`);
}

function nextTheme() {
  const now = THEMES.indexOf(localStorage.getItem("theme") || "auto");
  const next = THEMES[(now + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  showTheme(next);
}

// the address: #/view?a=b

function place() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: name in VIEWS ? name : "search", values: new URLSearchParams(query || "") };
}

// what a view keeps in the address, so that a link shows the same
export function remember(name, values) {
  const kept = new URLSearchParams(
    Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined),
  );
  const text = kept.toString();
  if (place().name === name) history.replaceState(null, "", `#/${name}${text ? `?${text}` : ""}`);
}

async function show() {
  const { name, values } = place();
  leave();
  leave = () => {};
  view = VIEWS[name];
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} · secondpass workbench`;
  main.className = name;
  const root = h("div", {}, h("p.quiet", {}, "…")); // one that is left writes into its own, which nobody sees
  put(main, root);
  try {
    const status = await ask("/v1/status");
    if (status.keys && !hasKey()) await keyAsked();
    health(status);
    const left = await VIEWS[name].show(root, { status, values, remember: (some) => remember(name, some) });
    if (root.isConnected) leave = left || leave;
    else left?.();
  } catch (error) {
    put(root, h("h1", {}, VIEWS[name].title), problem(error));
  }
}

let looking = 0;

function health(status) {
  const place = document.getElementById("health");
  place.textContent = status.unwell ? "not ready" : "";
  place.title = status.unwell;
  clearTimeout(looking);
  if (status.unwell) looking = setTimeout(() => ask("/v1/status").then(health, () => {}), SOON);
}

// the key

let asking = null;

function keyAsked() {
  asking ||= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const field = h("input", {
      type: "password",
      name: "key",
      autocomplete: "off",
      required: true,
      "aria-label": "API key",
    });
    put(
      dialog,
      h(
        "form",
        {
          method: "dialog",
          onsubmit: () => keep(field.value.trim()),
        },
        h("h2", { id: "key-title" }, "This server asks for a key"),
        hasKey() ? h("p.error", { role: "alert" }, "The key that was given is not known here.") : null,
        h("p", {}, "It is kept in this tab until it is closed, and sent to this server only."),
        field,
        h(
          "div.buttons",
          {},
          h("button", { type: "submit", value: "ok" }, "Go on"),
          h("button.plain", { type: "button", onclick: () => dialog.close("") }, "Not now"),
        ),
      ),
    );
    dialog.returnValue = "";
    dialog.onclose = () => {
      asking = null;
      resolve(dialog.returnValue === "ok");
    };
    dialog.showModal();
  });
  return asking;
}

// shortcuts

const EVERYWHERE = [
  ["?", "these shortcuts"],
  ["/", "to the query"],
  ["g then s, l, j, a, c", "to Search, Live, Judge, Audits, Compare"],
  ["t", "theme: auto, light, dark"],
  ["Esc", "close what is open"],
];

function shortcuts() {
  const dialog = document.getElementById("shortcuts");
  const list = (title, keys) =>
    keys.length
      ? [
          h("h3", {}, title),
          h(
            "dl.keys",
            {},
            keys.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]),
          ),
        ]
      : [];
  put(
    dialog,
    h("h2", { id: "shortcuts-title" }, "Keyboard"),
    list(view.title, view.KEYS || []),
    list("Everywhere", EVERYWHERE),
    h("form", { method: "dialog" }, h("div.buttons", {}, h("button", {}, "Close"))),
  );
  dialog.showModal();
}

function typing(target) {
  return target.closest("input:not([type=range]), textarea, select, [contenteditable]") !== null;
}

function pressed(event) {
  if (
    event.defaultPrevented ||
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    document.querySelector("dialog[open]")
  )
    return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (goingTo) {
    goingTo = false;
    if (event.key in LETTERS) location.hash = `#/${LETTERS[event.key]}`;
    return;
  }
  if (event.key === "g") goingTo = true;
  else if (event.key === "?") shortcuts();
  else if (event.key === "t") nextTheme();
  else if (event.key === "/") {
    event.preventDefault();
    if (view === search) document.getElementById("query")?.focus();
    else location.hash = "#/search";
  } else if (view.pressed?.(event)) event.preventDefault();
}

showTheme(localStorage.getItem("theme") || "auto");
document.getElementById("theme").addEventListener("click", nextTheme);
document.getElementById("help").addEventListener("click", shortcuts);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the view
  main.focus();
});
document.addEventListener("keydown", pressed);
addEventListener("hashchange", show);
onKeyNeeded(keyAsked);
show();
