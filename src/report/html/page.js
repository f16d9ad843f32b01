"use strict";
// The page of a plan. The data (src/report/html.rs) are numbers and places of strings; everything that is shown
// is made by `el`, which knows text only: no name in the images can become markup.

const data = JSON.parse(document.getElementById("data").textContent);
const str = (place) => data.strings[place];
const $ = (id) => document.getElementById(id);

/* Elements. */

function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}
const span = (className, ...children) => el("span", { class: className }, ...children);
const mark = (sort) => span("mark sort-" + sort);

/* Words. */

const number = (value) => value.toLocaleString("en");
const count = (value, noun) =>
  `${number(value)} ${noun}${value === 1 ? "" : /(s|x|ch)$/.test(noun) ? "es" : "s"}`;
function time(ns) {
  if (ns < 1000) return `${Math.round(ns)} ns`;
  const [value, unit] = ns < 1e6 ? [ns / 1e3, "µs"] : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ${unit}`;
}
function bytes(value) {
  if (value < 1024) return `${value} B`;
  return value < 1 << 20 ? `${(value / 1024).toFixed(0)} KiB` : `${(value / (1 << 20)).toFixed(1)} MiB`;
}
// 3-6, 9
function ranges(numbers) {
  const parts = [];
  for (let at = 0; at < numbers.length; ) {
    let end = at;
    while (numbers[end + 1] === numbers[end] + 1) end++;
    parts.push(end > at + 1 ? `${numbers[at]}-${numbers[end]}` : numbers.slice(at, end + 1).join(", "));
    at = end + 1;
  }
  return parts.join(", ");
}
const HOW = { makes: "makes it", inherits: "inherits it", receives: "receives it" };
const WAYS = { makes: "made in place", inherits: "inherited", receives: "received" };
const how = (word) => HOW[word] || word;

/* The plan. */

const ops = new Map();
for (let at = 0; at < data.operations.length; at += 5) {
  const [id, sort, what, why, image] = data.operations.slice(at, at + 5);
  ops.set(id, { id, sort, what, why, image, task: -1 });
}
const tasks = data.tasks.map(([pid, comm, parent, role, exit, records, forker], index) => ({
  index, pid, comm: str(comm), parent, role, exit, records, forker, children: [], depth: 0, fds: [], uses: [],
}));
const byPid = new Map(tasks.map((task) => [task.pid, task]));
data.programs.forEach((program, index) => {
  for (const item of program) if (item % 4 === 0) ops.get(item / 4).task = index;
});
const roots = [];
for (const task of tasks) (task.parent < 0 ? roots : tasks[task.parent].children).push(task);
// The tree from above, without recursion: it may be thousands deep.
const preorder = [];
for (const stack = roots.slice().reverse(); stack.length; ) {
  const task = stack.pop();
  task.depth = task.parent < 0 ? 0 : tasks[task.parent].depth + 1;
  task.place = preorder.push(task) - 1;
  for (let at = task.children.length - 1; at >= 0; at--) stack.push(task.children[at]);
}
const resources = data.resources.map(([kind, name, image, owner, users], index) => ({
  index, id: "r" + index, kind: str(kind), name: str(name), image: str(image), owner,
  users: users.map(([task, word, fds]) => ({ task, how: word, fds })),
}));
for (const resource of resources) {
  for (const user of resource.users) {
    if (user.task < 0) continue;
    tasks[user.task].uses.push({ resource, user });
    for (const fd of user.fds) tasks[user.task].fds.push({ fd, resource, user });
  }
}
for (const task of tasks) task.fds.sort((a, b) => a.fd - b.fd);
const waits = data.edges.map(([before, after, why, event]) => ({ before, after, why, event }));
const waitsForEvent = new Map();
for (const wait of waits) {
  if (wait.event < 0) continue;
  if (!waitsForEvent.has(wait.event)) waitsForEvent.set(wait.event, []);
  waitsForEvent.get(wait.event).push(wait);
}
const name = (task) => `${task.pid} ${task.comm}`;

/* A run of it. */

const STRIDE = 9;
const trace = data.trace && {
  ...data.trace,
  phases: data.trace.phases.map(([what, start, len]) => ({ what: str(what), start, len })),
};
const lanes = !trace ? [] : trace.lanes.map(([pid, comm, slices]) => {
  const size = slices.length / STRIDE;
  const lane = {
    pid, comm: str(comm), size, slices, start: new Float64Array(size), len: new Float64Array(size),
    task: byPid.get(pid), depth: 0,
  };
  for (let at = 0; at < size; at++) {
    lane.start[at] = slices[at * STRIDE];
    lane.len[at] = slices[at * STRIDE + 1];
  }
  if (lane.task) lane.depth = lane.task.depth;
  return lane;
});
lanes.sort((a, b) => (a.task ? a.task.place : Infinity) - (b.task ? b.task.place : Infinity) || 0);
lanes.forEach((lane, at) => (lane.at = at));
const laneOf = new Map(lanes.map((lane) => [lane.pid, lane]));
function slice(lane, at) {
  const [start, len, sort, what, purpose, image, op, record, unfinished] =
    lane.slices.slice(at * STRIDE, at * STRIDE + STRIDE);
  return { lane, at, start, len, sort, what: str(what), purpose: str(purpose), image: str(image), op, record, unfinished };
}
const sliceOfOp = new Map();
for (const lane of lanes) {
  for (let at = lane.size - 1; at >= 0; at--) {
    const op = lane.slices[at * STRIDE + 6];
    const what = str(lane.slices[at * STRIDE + 3]);
    if (op >= 0 && ops.has(op) && str(ops.get(op).what) === what) sliceOfOp.set(op, [lane, at]);
  }
}

/* Long lists: the rows that are seen are in the page, and no others. */

const ROW = 24;
class Rows {
  // `fill(element, index)` fills a row; `open(index)` is for clicks and Enter.
  constructor(box, { fill, open, keys, role = "option" }) {
    Object.assign(this, { box, fill, open, keys, role, length: 0, chosen: -1, shown: new Map() });
    this.inner = el("div", { role: "presentation" });
    box.append(this.inner);
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    box.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(box);
  }
  set(length, chosen = -1) {
    this.length = length;
    this.chosen = chosen;
    this.inner.style.height = length * ROW + "px";
    this.redraw();
  }
  redraw() {
    for (const row of this.shown.values()) row.remove();
    this.shown.clear();
    this.draw();
  }
  draw() {
    const height = this.box.clientHeight;
    if (!height) return;
    const from = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 4);
    const to = Math.min(this.length, Math.ceil((this.box.scrollTop + height) / ROW) + 4);
    for (const [index, row] of this.shown) {
      if (index < from || index >= to) {
        row.remove();
        this.shown.delete(index);
      }
    }
    for (let index = from; index < to; index++) {
      if (this.shown.has(index)) continue;
      const row = el("div", {
        class: index === this.chosen ? "row chosen" : "row", role: this.role, id: `${this.box.id}-${index}`,
        "aria-selected": String(index === this.chosen), "aria-setsize": this.length, "aria-posinset": index + 1,
        onclick: (event) => {
          if (!event.target.closest("a, button")) this.choose(index, true);
        },
      });
      row.style.top = index * ROW + "px";
      this.fill(row, index);
      this.shown.set(index, row);
      this.inner.append(row);
    }
  }
  choose(index, opens) {
    if (index < 0 || index >= this.length) return;
    const old = this.chosen;
    this.chosen = index;
    for (const at of [old, index]) {
      const row = this.shown.get(at);
      if (row) {
        row.classList.toggle("chosen", at === index);
        row.setAttribute("aria-selected", String(at === index));
      }
    }
    this.box.setAttribute("aria-activedescendant", `${this.box.id}-${index}`);
    this.reveal(index);
    if (opens && this.open) this.open(index);
  }
  reveal(index, inTheMiddle) {
    const { scrollTop, clientHeight } = this.box;
    const top = index * ROW;
    if (top >= scrollTop && top + ROW <= scrollTop + clientHeight) return;
    if (inTheMiddle) this.box.scrollTop = top - clientHeight / 2;
    else this.box.scrollTop = top < scrollTop ? top : top + ROW - clientHeight;
    this.draw();
  }
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      const to = Math.min(this.length - 1, Math.max(0, this.chosen + steps[event.key]));
      this.choose(to, this.openOnMove);
    } else if (event.key === "Enter" && this.chosen >= 0 && this.open) {
      this.open(this.chosen, true);
    } else if (!this.keys || !this.keys(event, this.chosen)) {
      return;
    }
    event.preventDefault();
  }
}

/* Where one is: #/tasks/1001, #/resources/r3, #/waits, #/timeline/1001. */

const views = ["overview", "tasks", "resources", "waits", "timeline"].filter((view) => view !== "timeline" || trace);
$("tab-timeline").hidden = !trace;
const go = (...parts) => {
  const hash = "#/" + parts.join("/");
  if (location.hash === hash) route();
  else location.hash = hash;
};
const link = (text, ...parts) => el("a", { href: "#/" + parts.join("/") }, text);
const taskLink = (index) => (index < 0 ? span("dim", "nobody") : link(name(tasks[index]), "tasks", tasks[index].pid));
let view = "";
function route() {
  const [, wanted = "", ...rest] = location.hash.split("/");
  view = views.includes(wanted) ? wanted : "overview";
  for (const other of views) {
    $("view-" + other).hidden = other !== view;
    const tab = $("tab-" + other);
    tab.setAttribute("aria-selected", String(other === view));
    tab.tabIndex = other === view ? 0 : -1;
  }
  show[view](...rest.map(decodeURIComponent));
  document.title = `${view} · regrow plan`;
}
for (const one of views) $("tab-" + one).addEventListener("click", () => go(one, ...(last[one] || [])));
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const to = views[(views.indexOf(view) + step + views.length) % views.length];
  go(to);
  $("tab-" + to).focus();
});
// What was shown last in each view.
const last = {};

/* Overview. */

function stack(parts) {
  const sum = parts.reduce((total, part) => total + part.ns, 0) || 1;
  const bar = el("div", { class: "stack" });
  const keys = el("div", { class: "keys" });
  parts.forEach((part, at) => {
    const colour = `var(--sort-${[0, 5, 2, 3, 1, 7, 4][at % 7]})`;
    const piece = el("i", { title: `${part.what} ${time(part.ns)}` });
    piece.style.flex = String(part.ns / sum);
    piece.style.background = colour;
    const dot = span("mark");
    dot.style.background = colour;
    bar.append(piece);
    keys.append(el("span", {}, dot, part.what + " ", el("b", {}, time(part.ns))));
  });
  return [bar, keys];
}

function overview() {
  const { totals, timings } = data;
  const card = (value, what, ...to) =>
    el(to.length ? "a" : "div", { class: "card", href: to.length ? "#/" + to.join("/") : null },
      el("b", {}, typeof value === "number" ? number(value) : value), span("", what));
  const body = el("div", {});
  const zombies = totals.zombies ? `, ${count(totals.zombies, "zombie")}` : "";
  const threads = totals.threads ? `, ${count(totals.threads, "further thread")}` : "";
  body.append(el("div", { class: "cards" },
    card(totals.tasks, `task${totals.tasks === 1 ? "" : "s"}${zombies}${threads}`, "tasks"),
    card(totals.resources, `resources, ${number(totals.shared_resources)} shared`, "resources"),
    card(totals.descriptors, `descriptors, ${number(totals.descriptors_inherited)} of them inherited`),
    card(totals.waits, `waits for ${count(totals.events, "event")}`, "waits"),
    card(totals.operations, "operations"),
    card(totals.records, `records, ${bytes(totals.region_bytes)}`)));

  if (trace) {
    const isGood = trace.outcome === "restored";
    const inner = trace.phases.filter((phase) => phase.what !== "prepare");
    const first = inner.find((phase) => phase.what === "launch");
    const parts = inner.filter((phase) => !first || phase.start >= first.start)
      .map((phase) => ({ what: phase.what, ns: phase.len }));
    body.append(el("section", {},
      el("h2", {}, "The run that was traced"),
      el("p", { class: isGood ? "note" : "note bad", id: "outcome" },
        isGood ? "All tasks were restored." : `It failed: ${trace.outcome}`),
      trace.isOfThisPlan ? null
        : el("p", { class: "note bad", id: "other-plan" },
          `It ran another plan than this page shows (images ${trace.directory}): its times stand in the timeline only.`),
      ...(parts.length ? stack(parts) : [])));
  }
  const stages = ["read", "facts", "resolve", "plan", "lower", "certify"];
  body.append(el("section", {}, el("h2", {}, "Making this plan"),
    ...stack(stages.map((what) => ({ what, ns: timings[what + "_ns"] })))));

  const kinds = new Map();
  for (const resource of resources) {
    if (resource.owner < 0) continue;
    if (!kinds.has(resource.kind)) kinds.set(resource.kind, { made: 0, shared: 0, ways: {} });
    const kind = kinds.get(resource.kind);
    kind.made++;
    if (resource.users.length > 1) kind.shared++;
    for (const user of resource.users) kind.ways[user.how] = (kind.ways[user.how] || 0) + 1;
  }
  const ways = [...new Set([...kinds.values()].flatMap((kind) => Object.keys(kind.ways)))].sort().reverse();
  if (kinds.size) {
    body.append(el("section", {}, el("h2", {}, "What is made, and how its users get it"),
      el("table", {},
        el("tr", {}, el("th", {}, "kind"), el("th", { class: "n" }, "made"), el("th", { class: "n" }, "shared"),
          ...ways.map((way) => el("th", { class: "n" }, WAYS[way] || way))),
        ...[...kinds].sort((a, b) => b[1].made - a[1].made).map(([kind, { made, shared, ways: by }]) =>
          el("tr", {}, el("td", {}, link(kind, "resources", "kind", encodeURIComponent(kind))),
            el("td", { class: "n" }, number(made)), el("td", { class: "n" }, number(shared)),
            ...ways.map((way) => el("td", { class: "n" }, number(by[way] || 0))))))));
  }
  if (data.certificate) {
    body.append(el("section", {}, el("h2", {}, "Certificate of the tapes"), el("pre", {}, data.certificate)));
  }
  $("view-overview").replaceChildren(body);
}

/* Tasks. */

const folded = new Set();
let visible = [];
const tree = new Rows($("tree"), {
  role: "treeitem",
  fill(row, at) {
    const task = visible[at];
    row.style.paddingLeft = 8 + Math.min(task.depth, 24) * 14 + "px";
    row.setAttribute("aria-level", task.depth + 1);
    const isOpen = !folded.has(task.index);
    if (task.children.length) {
      row.setAttribute("aria-expanded", String(isOpen));
      row.append(el("button", { class: "twist", tabindex: -1, "aria-label": "Fold", onclick: () => fold(task, isOpen) },
        isOpen ? "▾" : "▸"));
    } else {
      row.append(span("twist"));
    }
    row.append(span("mono", String(task.pid)), span("grow", task.comm));
    if (task.role === "thread") row.append(span("tag", "thread"));
    if (task.role === "helper") row.append(span("tag", "helper"));
    if (task.exit !== null && task.role !== "helper") row.append(span("tag bad", "zombie"));
    if (!isOpen) row.append(span("tag", "+" + number(below(task))));
  },
  open: (at, isEnter) => {
    go("tasks", visible[at].pid);
    if (isEnter && $("program")) $("program").focus();
  },
  keys(event, at) {
    const task = visible[at];
    if (!task) return false;
    if (event.key === "ArrowLeft") {
      if (task.children.length && !folded.has(task.index)) fold(task, true);
      else if (task.parent >= 0) tree.choose(visible.indexOf(tasks[task.parent]), true);
    } else if (event.key === "ArrowRight") {
      if (folded.has(task.index)) fold(task, false);
      else if (task.children.length) tree.choose(at + 1, true);
    } else return false;
    return true;
  },
});
tree.openOnMove = true;
function below(task) {
  let at = task.place + 1;
  while (at < preorder.length && preorder[at].depth > task.depth) at++;
  return at - task.place - 1;
}
function spread(chosen) {
  visible = [];
  for (let at = 0; at < preorder.length; ) {
    const task = preorder[at];
    visible.push(task);
    at += folded.has(task.index) ? below(task) + 1 : 1;
  }
  tree.set(visible.length, visible.indexOf(chosen));
}
function fold(task, closes) {
  if (closes) folded.add(task.index);
  else folded.delete(task.index);
  spread(tree.chosen >= 0 ? visible[tree.chosen] : null);
  tree.choose(visible.indexOf(task), false);
}

let shownTask = null;
let part = "program";
function showTask(pid, which, op) {
  const task = byPid.get(Number(pid)) || roots[0];
  if (!task) return;
  for (let up = task.parent; up >= 0; up = tasks[up].parent) folded.delete(up);
  if (shownTask !== task || !visible.includes(task)) spread(task);
  tree.chosen = visible.indexOf(task);
  tree.redraw();
  tree.reveal(tree.chosen, true);
  last.tasks = [task.pid];
  shownTask = task;
  if (which) part = which;
  const box = $("task");
  const born = task.parent < 0 ? ["the root"]
    : task.role === "thread" ? ["thread of ", taskLink(task.parent)]
      : task.forker >= 0 ? ["forked by ", taskLink(task.forker), ", adopted by ", taskLink(task.parent)]
        : [task.role === "sibling" ? "forked by a sibling, child of " : "child of ", taskLink(task.parent)];
  const program = data.programs[task.index];
  const does = program.filter((item) => item % 4 === 0).length;
  const what = { thread: "thread", helper: "helper task" }[task.role] || (task.exit !== null ? "zombie" : "task");
  const facts = [`; ${count(task.children.length, "child").replace("childs", "children")}, `,
    `${count(does, "operation")}, ${count(task.records, "record")}`];
  if (laneOf.has(task.pid)) facts.push(" · ", link("timeline", "timeline", task.pid));
  box.replaceChildren(
    el("div", { class: "head" }, el("h2", {}, `${what} ${name(task)}`), el("p", {}, ...born, ...facts)));
  const tabs = el("div", { class: "switch" });
  const pane = el("div", { class: "rows", tabindex: 0 });
  const button = (id, text) =>
    el("button", { "aria-pressed": String(part === id), onclick: () => { part = id; showTask(task.pid); } }, text);
  tabs.append(button("program", "Program"),
    button("descriptors", `Descriptors ${task.fds.length}`),
    button("uses", `Resources ${task.uses.length}`));
  box.append(tabs, pane);
  if (part === "program") showProgram(task, program, tabs, pane, op);
  else showUses(part === "descriptors" ? task.fds : task.uses, pane);
}

function showProgram(task, program, tabs, pane, op) {
  pane.id = "program";
  pane.setAttribute("role", "listbox");
  pane.setAttribute("aria-label", "Program");
  const all = program.map((item) => line(task, item));
  let lines = all;
  const rows = new Rows(pane, {
    fill(row, at) {
      const { id, sort, what, why, image, took, target } = lines[at];
      row.append(span("num", id), mark(sort), target ? el("a", { class: "grow", href: target }, what) : span("grow", what),
        span("why dim", why), span("image faint mono", image));
      row.firstChild.style.width = "52px";
      row.title = [what, why, image].filter(Boolean).join("\n");
      if (trace && trace.isOfThisPlan) {
        const cell = span("num", took === null ? "" : time(took));
        cell.style.width = "64px";
        row.append(cell);
      }
    },
    open(at, isEnter) {
      const found = sliceOfOp.get(lines[at].op);
      if (isEnter && found) showSlice(found[0], found[1]);
    },
  });
  tabs.append(el("input", {
    type: "search", placeholder: "Filter", "aria-label": "Filter the program", id: "program-filter",
    oninput(event) {
      const wanted = event.target.value.toLowerCase();
      lines = all.filter(({ what, why, image }) => `${what} ${why} ${image}`.toLowerCase().includes(wanted));
      rows.set(lines.length);
    },
  }));
  rows.set(lines.length);
  const at = op === undefined ? -1 : lines.findIndex((it) => it.op === Number(op));
  if (at >= 0) {
    rows.choose(at, false);
    rows.reveal(at, true);
  }
}

// One element of a program.
function line(task, item) {
  const none = { id: "", sort: 5, why: "", image: "", took: null, op: -1 };
  if (item % 4 === 0) {
    const op = ops.get(item / 4);
    const found = sliceOfOp.get(op.id);
    const born = op.sort === 0 && / (\d+)$/.exec(str(op.what));
    return {
      target: born && byPid.has(Number(born[1])) ? `#/tasks/${born[1]}` : null,
      id: String(op.id), op: op.id, sort: op.sort, what: str(op.what), why: str(op.why), image: str(op.image),
      took: found ? found[0].len[found[1]] : null,
    };
  }
  const event = (item - (item % 4)) / 4;
  const poster = tasks[ops.get(data.events[event]).task];
  if (item % 4 === 1) {
    const why = (waitsForEvent.get(event) || []).filter((wait) => ops.get(wait.after).task === task.index)
      .map((wait) => str(wait.why));
    return {
      ...none, what: `waits for e${event} of task ${name(poster)}`, why: [...new Set(why)].join(", "),
      target: `#/tasks/${poster.pid}/program/${data.events[event]}`,
    };
  }
  const pids = [...new Set((waitsForEvent.get(event) || []).map((wait) => tasks[ops.get(wait.after).task].pid))];
  return { ...none, what: `posts e${event}`, why: `${ranges(pids.sort((a, b) => a - b))} waits`, target: "#/waits" };
}

function showUses(uses, pane) {
  pane.id = "uses";
  pane.setAttribute("role", "listbox");
  if (!uses.length) {
    pane.replaceWith(el("p", { class: "empty" }, "None."));
    return;
  }
  const rows = new Rows(pane, {
    fill(row, at) {
      const { fd, resource, user } = uses[at];
      const number = span("num", fd === undefined ? ranges(user.fds) || "–" : String(fd));
      number.style.width = "52px";
      const kind = span("dim", resource.kind);
      kind.style.width = "96px";
      row.append(number, kind, el("a", { class: "grow", href: "#/resources/" + resource.id }, resource.name),
        span("dim", user.how === "makes" ? "makes it" : how(user.how) + ", made by "),
        user.how === "makes" ? "" : taskLink(resource.owner));
    },
    open: (at) => go("resources", uses[at].resource.id),
  });
  rows.set(uses.length);
}

/* Resources. */

let listed = [];
const list = new Rows($("resources"), {
  fill(row, at) {
    const resource = listed[at];
    const [id, kind, owner, users] = [span("num", resource.id), span("dim", resource.kind),
      span("mono", resource.owner < 0 ? "–" : String(tasks[resource.owner].pid)),
      span("num", number(resource.users.length))];
    [[id, 44], [kind, 100], [owner, 52], [users, 40]].forEach(([cell, width]) => (cell.style.width = width + "px"));
    row.append(id, kind, span("grow", resource.name), owner, users);
    row.title = resource.name;
  },
  open: (at) => go("resources", listed[at].id),
});
list.openOnMove = true;
function filterResources() {
  const text = $("resource-filter").value.toLowerCase();
  const kind = $("resource-kind").value;
  const isShared = $("resource-shared").checked;
  listed = resources.filter((it) =>
    (!kind || it.kind === kind) && (!isShared || it.users.length > 1) &&
    (!text || `${it.id} ${it.name}`.toLowerCase().includes(text)));
  $("resources-count").textContent = listed.length === resources.length
    ? count(listed.length, "resource") : `${number(listed.length)} of ${number(resources.length)}`;
  list.set(listed.length, listed.findIndex((it) => it === shownResource));
}
let shownResource = null;
function showResource(id, kind) {
  if (id === "kind") {
    $("resource-kind").value = kind;
    $("resource-filter").value = "";
    filterResources();
    id = listed.length ? listed[0].id : undefined;
  }
  const resource = resources[Number(String(id).slice(1))] || shownResource || listed[0] || resources[0];
  if (!resource) {
    $("resource").replaceChildren(el("p", { class: "empty" }, "Nothing is made."));
    return;
  }
  shownResource = resource;
  last.resources = [resource.id];
  if (!listed.includes(resource)) {
    $("resource-filter").value = $("resource-kind").value = "";
    $("resource-shared").checked = false;
    filterResources();
  }
  list.chosen = listed.indexOf(resource);
  list.redraw();
  list.reveal(list.chosen, true);
  const pane = el("div", { class: "rows", tabindex: 0, id: "delivery", role: "tree", "aria-label": "How it travels" });
  const ways = {};
  for (const user of resource.users) ways[user.how] = (ways[user.how] || 0) + 1;
  const inWords = Object.entries(ways).map(([way, many]) => `${number(many)} ${WAYS[way] || way}`);
  $("resource").replaceChildren(
    el("div", { class: "head" }, el("h2", {}, resource.name),
      el("p", {}, `${resource.kind} ${resource.id}`, resource.image ? span("mono faint", "  " + resource.image) : ""),
      el("p", {}, "made by ", taskLink(resource.owner), `; ${count(resource.users.length, "user")}`,
        inWords.length ? `: ${inWords.join(", ")}` : "")),
    pane);
  // The part of the tree through which it travels.
  const use = new Map(resource.users.map((user) => [user.task, user]));
  const on = new Set(resource.owner < 0 ? [] : [resource.owner]);
  for (const user of resource.users) {
    for (let at = user.task; at >= 0 && !on.has(at); at = tasks[at].parent) on.add(at);
  }
  const way = preorder.filter((task) => on.has(task.index));
  const top = Math.min(...way.map((task) => task.depth));
  const rows = new Rows(pane, {
    role: "treeitem",
    fill(row, at) {
      const task = way[at];
      const user = use.get(task.index);
      row.style.paddingLeft = 16 + Math.min(task.depth - top, 24) * 14 + "px";
      const isOwner = task.index === resource.owner;
      const what = user ? how(user.how) : isOwner ? "makes it for those below" : "on the way";
      row.append(el("a", { href: "#/tasks/" + task.pid, class: user || isOwner ? "" : "faint" }, name(task)),
        span(user || isOwner ? "dim" : "faint", what),
        user && user.fds.length ? span("mono", "fd " + ranges(user.fds)) : "");
    },
    open: (at) => go("tasks", way[at].pid),
  });
  rows.set(way.length);
}

/* Waits. */

const waitRows = new Rows($("waits"), {
  fill(row, at) {
    const { before, after, why, event } = waits[at];
    const [first, second] = [ops.get(before), ops.get(after)];
    const side = (op) => {
      const task = tasks[op.task];
      const cell = span("", link(String(task.pid), "tasks", task.pid, "program", op.id), " ", str(op.what));
      cell.style.width = "30%";
      return cell;
    };
    const by = span("num", event < 0 ? "kernel" : "e" + event);
    by.style.width = "52px";
    row.append(by, side(second), span("dim", "waits for"), side(first), span("grow dim", str(why)));
    row.title = str(why);
  },
  open: (at) => go("tasks", tasks[ops.get(waits[at].after).task].pid, "program", waits[at].after),
});
function showWaits() {
  const byEvent = waits.filter((wait) => wait.event >= 0).length;
  $("waits-lead").textContent = waits.length
    ? `${count(byEvent, "wait")} for what another task does, ${number(waits.length - byEvent)} that the kernel sees ` +
      "to (deaths). All tasks also wait for their birth and, once, at the barrier."
    : "No task waits for another: all that is shared is there when they are born. They meet once, at the barrier.";
  waitRows.set(waits.length);
}

/* Search. */

const found = $("found");
let hits = [];
let hit = -1;
function search(text) {
  const wanted = text.trim().toLowerCase();
  hits = [];
  if (!wanted) return found.replaceChildren(), (found.hidden = true);
  const groups = [];
  const group = (title, all) => {
    if (all.length) groups.push([title, all.slice(0, 30), all.length]);
  };
  const asFd = /^fd\s*(\d+)$/.exec(wanted) || /^(\d+)$/.exec(wanted);
  if (!wanted.startsWith("fd ")) {
    const rank = (task) => (String(task.pid) === wanted ? 0 : String(task.pid).startsWith(wanted) ? 1 : 2);
    group("Tasks", tasks.filter((task) => name(task).toLowerCase().includes(wanted))
      .sort((a, b) => rank(a) - rank(b) || a.place - b.place)
      .map((task) => ({ href: `#/tasks/${task.pid}`, first: String(task.pid), then: task.comm })));
    group("Resources", resources.filter((it) => it.id === wanted || it.name.toLowerCase().includes(wanted))
      .map((it) => ({ href: `#/resources/${it.id}`, first: it.id, then: `${it.kind} ${it.name}` })));
  }
  if (asFd) {
    const fd = Number(asFd[1]);
    group(`Descriptor ${fd}`, preorder.flatMap((task) => task.fds.filter((it) => it.fd === fd).map((it) => ({
      href: `#/resources/${it.resource.id}`, first: `fd ${fd} of ${task.pid}`,
      then: `${it.resource.name} (${how(it.user.how)})`,
    }))));
  }
  if (wanted.length > 2 && !asFd) {
    const places = new Set();
    data.strings.forEach((text, at) => {
      if (text.toLowerCase().includes(wanted)) places.add(at);
    });
    group("Operations", [...ops.values()].filter((op) => places.has(op.what) || places.has(op.image)).map((op) => ({
      href: `#/tasks/${tasks[op.task].pid}/program/${op.id}`, first: `${tasks[op.task].pid}`, then: str(op.what),
    })));
  }
  found.replaceChildren();
  for (const [title, all, total] of groups) {
    found.append(el("h3", {}, total > all.length ? `${title}, ${all.length} of ${number(total)}` : title));
    for (const { href, first, then } of all) {
      const row = el("a", { href, onclick: () => (close(), ($("search").value = "")) }, span("mono", first), span("", then));
      hits.push(row);
      found.append(row);
    }
  }
  if (!hits.length) found.append(el("p", {}, "Nothing is called so."));
  found.hidden = false;
  pick(0);
}
function pick(at) {
  if (hits[hit]) hits[hit].classList.remove("chosen");
  hit = Math.min(hits.length - 1, Math.max(0, at));
  if (hits[hit]) {
    hits[hit].classList.add("chosen");
    hits[hit].scrollIntoView({ block: "nearest" });
  }
}
function close() {
  found.hidden = true;
  hits = [];
  $("search").blur();
}
$("search").addEventListener("input", (event) => search(event.target.value));
$("search").addEventListener("focus", (event) => search(event.target.value));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") pick(hit + 1);
  else if (event.key === "ArrowUp") pick(hit - 1);
  else if (event.key === "Enter" && hits[hit]) {
    location.hash = hits[hit].getAttribute("href");
    close();
    $("search").value = "";
  } else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
});
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".search")) found.hidden = true;
});

/* Timeline. */

const GUTTER = 190;
const AXIS = 22;
const PHASES = 24;
const TOP = AXIS + PHASES;
const canvas = $("canvas");
const pen = canvas.getContext("2d");
const look = { from: 0, to: 1, top: 0, lane: 20 };
let colours = {};
let chosenSlice = null;
let hovered = null;
let dirty = false;

const runEnd = trace ? Math.max(1, ...trace.phases.map((phase) => phase.start + phase.len), ...lanes.map((lane) =>
  (lane.size ? lane.start[lane.size - 1] + lane.len[lane.size - 1] : 0))) : 1;
const runStart = Math.min(...lanes.filter((lane) => lane.size).map((lane) => lane.start[0]), runEnd);

// Canvases know no variables.
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "panel", "ink", "dim", "faint", "line", "hover", "chosen", "accent", "phase-a", "phase-b",
    ...data.sorts.map((_, at) => "sort-" + at)];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
}
const width = () => canvas.clientWidth - GUTTER;
const xOf = (ns) => GUTTER + ((ns - look.from) / (look.to - look.from)) * width();
const nsOf = (x) => look.from + ((x - GUTTER) / width()) * (look.to - look.from);
const yOf = (at) => TOP + at * look.lane - look.top;

function bound() {
  const least = 200;
  let length = Math.min(Math.max(look.to - look.from, least), runEnd * 1.04);
  const middle = (look.from + look.to) / 2;
  let from = Math.max(-runEnd * 0.02, middle - length / 2);
  from = Math.min(from, runEnd * 1.02 - length);
  look.from = from;
  look.to = from + length;
  const all = lanes.length * look.lane;
  look.top = Math.max(0, Math.min(look.top, all - (canvas.clientHeight - TOP)));
}
function zoom(factor, x = GUTTER + width() / 2) {
  const at = nsOf(x);
  look.from = at - (at - look.from) * factor;
  look.to = at + (look.to - at) * factor;
  paint();
}
function focusOn(from, to) {
  const margin = (to - from) * 0.02 || 100;
  look.from = from - margin;
  look.to = to + margin;
  paint();
}
function paint() {
  if (dirty || view !== "timeline") return;
  dirty = true;
  requestAnimationFrame(() => {
    dirty = false;
    draw();
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  if (!w || !h) return;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
  }
  bound();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, w, h);
  pen.textBaseline = "middle";
  const ticks = grid(w, h);
  const first = Math.max(0, Math.floor(look.top / look.lane));
  const end = Math.min(lanes.length, Math.ceil((look.top + h - TOP) / look.lane));
  for (let at = first; at < end; at++) drawLane(lanes[at], w);
  drawLinks(w, h);
  drawHead(w, ticks);
  $("timeline-range").textContent = `${time(Math.max(0, look.from))} – ${time(Math.min(runEnd, look.to))}`;
}

// Lines at round times; gives what they say.
function grid(w, h) {
  const rough = ((look.to - look.from) / width()) * 110;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let ns = Math.ceil(Math.max(0, look.from) / step) * step; ns <= look.to; ns += step) ticks.push(ns);
  pen.fillStyle = colours.line;
  for (const ns of ticks) pen.fillRect(Math.round(xOf(ns)), AXIS, 1, h);
  return { ticks, step };
}

function drawLane(lane, w) {
  const y = yOf(lane.at);
  const isTall = look.lane >= 12;
  const gap = look.lane >= 6 ? 2 : 0;
  const height = Math.max(1, look.lane - gap);
  if (chosenSlice && chosenSlice.lane === lane) {
    pen.fillStyle = colours.chosen;
    pen.fillRect(0, y, w, look.lane);
  }
  // The first that may be seen: they do not overlap.
  let low = 0;
  let high = lane.size;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lane.start[middle] + lane.len[middle] < look.from) low = middle + 1;
    else high = middle;
  }
  let drawnTo = GUTTER;
  for (let at = low; at < lane.size && lane.start[at] <= look.to; at++) {
    const from = Math.max(GUTTER, xOf(lane.start[at]));
    const to = Math.min(w, Math.max(xOf(lane.start[at] + lane.len[at]), from + 1));
    // What falls into a pixel that is drawn already is not seen.
    if (to <= drawnTo) continue;
    drawnTo = Math.max(to, from + 0.7);
    pen.fillStyle = colours["sort-" + lane.slices[at * STRIDE + 2]];
    pen.fillRect(from, y + gap / 2, Math.max(0.7, to - from - (to - from > 3 ? 1 : 0)), height);
    if (isTall && to - from > 46) {
      pen.save();
      pen.beginPath();
      pen.rect(from + 4, y, to - from - 8, look.lane);
      pen.clip();
      const sort = lane.slices[at * STRIDE + 2];
      pen.fillStyle = sort === 6 ? colours.dim : document.documentElement.dataset.theme === "dark" ? "#10141a" : "#ffffff";
      pen.font = `11px ${sans}`;
      pen.fillText(str(lane.slices[at * STRIDE + 3]), from + 5, y + look.lane / 2 + 0.5);
      pen.restore();
    }
  }
  if (chosenSlice && chosenSlice.lane === lane) {
    const from = Math.max(GUTTER, xOf(chosenSlice.start));
    const to = Math.min(w, xOf(chosenSlice.start + chosenSlice.len));
    if (to >= from) {
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 1.5;
      pen.strokeRect(from - 0.5, y + 0.5, Math.max(3, to - from), look.lane - 1);
    }
  }
  pen.fillStyle = chosenSlice && chosenSlice.lane === lane ? colours.chosen : colours.paper;
  pen.fillRect(0, y, GUTTER - 1, look.lane);
  if (isTall) {
    const indent = 10 + Math.min(lane.depth, 8) * 8;
    pen.save();
    pen.beginPath();
    pen.rect(0, y, GUTTER - 8, look.lane);
    pen.clip();
    pen.font = `11px ${mono}`;
    pen.fillStyle = colours.dim;
    pen.fillText(String(lane.pid), indent, y + look.lane / 2 + 0.5);
    pen.font = `12px ${sans}`;
    pen.fillStyle = colours.ink;
    pen.fillText(lane.comm, indent + 10 + String(lane.pid).length * 7, y + look.lane / 2 + 0.5);
    pen.restore();
  }
}

// Where a slice comes from and leads to: a birth, what was waited for.
function links(it) {
  if (!it || !it.lane.task) return [];
  const all = [];
  const parent = it.lane.task.forker >= 0 ? it.lane.task.forker : it.lane.task.parent;
  const mother = parent >= 0 && laneOf.get(tasks[parent].pid);
  const birth = (lane, child) => {
    for (let at = 0; at < lane.size; at++) {
      if (lane.slices[at * STRIDE + 2] === 0 && new RegExp(`(task|thread) ${child.pid}$`).test(str(lane.slices[at * STRIDE + 3]))) {
        return at;
      }
    }
    return -1;
  };
  if (mother && it.lane.size) {
    const at = birth(mother, it.lane);
    if (at >= 0) all.push([mother, mother.start[at], it.lane, it.lane.start[0], 0]);
  }
  for (const child of it.sort === 0 ? it.lane.task.children : []) {
    const lane = laneOf.get(child.pid);
    if (lane && lane.size && it.what.endsWith(" " + child.pid)) all.push([it.lane, it.start, lane, lane.start[0], 0]);
  }
  const event = /^wait for e(\d+)$/.exec(it.what);
  if (event && trace.isOfThisPlan && Number(event[1]) < data.events.length) {
    const poster = laneOf.get(tasks[ops.get(data.events[Number(event[1])]).task].pid);
    for (let at = 0; poster && at < poster.size; at++) {
      if (str(poster.slices[at * STRIDE + 3]) === `post e${event[1]}`) {
        all.push([poster, poster.start[at], it.lane, it.start + it.len, 5]);
      }
    }
  }
  return all;
}
function drawLinks(w, h) {
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER, TOP, w, h);
  pen.clip();
  for (const [from, start, to, end, sort] of links(chosenSlice)) {
    const [x0, y0, x1, y1] = [xOf(start), yOf(from.at) + look.lane / 2, xOf(end), yOf(to.at) + look.lane / 2];
    pen.strokeStyle = colours["sort-" + sort];
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.bezierCurveTo(x0 + 30, y0, x1 - 30, y1, x1, y1);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x1 - 7, y1 - 4);
    pen.lineTo(x1 - 7, y1 + 4);
    pen.fillStyle = pen.strokeStyle;
    pen.fill();
  }
  pen.restore();
}

function drawHead(w, { ticks, step }) {
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, w, TOP);
  pen.font = `11px ${mono}`;
  pen.fillStyle = colours.dim;
  const [unit, size] = step >= 1e8 ? ["s", 1e9] : step >= 1e5 ? ["ms", 1e6] : step >= 100 ? ["µs", 1e3] : ["ns", 1];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
  for (const ns of ticks) pen.fillText(`${(ns / size).toFixed(digits)} ${unit}`, xOf(ns) + 4, AXIS / 2);
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER, 0, w, TOP);
  pen.clip();
  const inner = trace.phases.filter((phase) => phase.what !== "prepare" || trace.phases.length === 1);
  inner.forEach((phase, at) => {
    const [from, to] = [xOf(phase.start), xOf(phase.start + phase.len)];
    if (to < GUTTER || from > w) return;
    pen.fillStyle = colours[at % 2 ? "phase-b" : "phase-a"];
    pen.fillRect(from, AXIS + 3, Math.max(1, to - from - 0.5), PHASES - 7);
    const x = Math.max(from, GUTTER);
    if (Math.min(to, w) - x > 6 * phase.what.length + 8) {
      pen.fillStyle = colours.panel;
      pen.font = `11px ${sans}`;
      pen.fillText(phase.what, x + 5, AXIS + PHASES / 2);
    }
  });
  pen.restore();
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, GUTTER - 1, TOP);
  pen.fillStyle = colours.ink;
  pen.font = `12px ${sans}`;
  pen.fillText("regrow", 10, AXIS + PHASES / 2);
  pen.fillStyle = colours.line;
  pen.fillRect(0, TOP - 1, w, 1);
  pen.fillRect(GUTTER - 1, 0, 1, canvas.clientHeight);
}

// The slice, or the phase, at a place of the canvas.
function at(x, y) {
  if (x < GUTTER) return null;
  const ns = nsOf(x);
  const slack = ((look.to - look.from) / width()) * 2;
  if (y < TOP) {
    const phase = trace.phases.findLast((it) => it.start <= ns && ns <= it.start + it.len);
    return phase ? { phase, start: phase.start, len: phase.len, what: phase.what } : null;
  }
  const lane = lanes[Math.floor((y - TOP + look.top) / look.lane)];
  if (!lane) return null;
  let best = -1;
  let distance = Infinity;
  for (let index = 0; index < lane.size && lane.start[index] <= ns + slack; index++) {
    const away = Math.max(0, lane.start[index] - ns, ns - lane.start[index] - lane.len[index]);
    if (away <= slack && away <= distance) [best, distance] = [index, away];
  }
  return best < 0 ? null : slice(lane, best);
}

function tip(it, x, y) {
  const box = $("tip");
  box.hidden = !it;
  if (!it) return;
  const rows = [el("b", {}, it.what)];
  if (it.lane) {
    rows.push(span("", `${it.lane.pid} ${it.lane.comm}`));
    if (it.purpose) rows.push(span("", it.purpose));
    if (it.image) rows.push(span("", it.image));
  } else rows.push(span("", "regrow"));
  rows.push(span("mono", `${it.unfinished ? "not ended by itself, " : ""}${time(it.len)} from ${time(it.start)}`));
  box.replaceChildren(...rows);
  box.style.left = Math.min(x + 14, window.innerWidth - box.offsetWidth - 8) + "px";
  box.style.top = Math.min(y + 16, window.innerHeight - box.offsetHeight - 8) + "px";
}

function choose(it) {
  chosenSlice = it;
  const foot = $("slice");
  if (!it) {
    foot.replaceChildren(span("dim", `${count(lanes.length, "lane")}. Hover for what it is; click, or use the arrow keys.`));
  } else {
    const op = it.op >= 0 && ops.has(it.op) && it.lane.task;
    foot.replaceChildren(mark(it.sort), el("b", {}, it.what), it.lane.task ? taskLink(it.lane.task.index) : name(it.lane),
      span("mono", time(it.len)), span("dim", it.purpose), span("faint mono", it.image),
      op ? link("in the program", "tasks", it.lane.task.pid, "program", it.op) : "");
    foot.firstChild.style.flex = "none";
    foot.firstChild.style.width = "4px";
  }
  paint();
}
// Shows it where it is: the lane in sight, the time too.
function showSlice(lane, index) {
  if (view !== "timeline") {
    last.timeline = [];
    go("timeline");
    route();
  }
  const it = slice(lane, index);
  const length = look.to - look.from;
  if (it.start < look.from || it.start + Math.min(it.len, length / 2) > look.to) {
    const wanted = Math.min(length, Math.max(it.len * 6, 20000));
    look.from = it.start - wanted / 3;
    look.to = look.from + wanted;
  }
  reveal(lane);
  choose(it);
}
function reveal(lane) {
  const y = lane.at * look.lane;
  const room = canvas.clientHeight - TOP;
  if (y < look.top || y + look.lane > look.top + room) look.top = y - room / 2;
}

const moves = {
  "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), w: () => zoom(0.6), s: () => zoom(1 / 0.6),
  0: () => focusOn(runStart, runEnd), 9: () => focusOn(0, runEnd),
  a: () => pan(-0.2), d: () => pan(0.2),
  l: () => toggleLanes(),
  ArrowRight: () => step(1, 0), ArrowLeft: () => step(-1, 0), ArrowDown: () => step(0, 1), ArrowUp: () => step(0, -1),
  Enter: () => chosenSlice && chosenSlice.op >= 0 && chosenSlice.lane.task &&
    go("tasks", chosenSlice.lane.task.pid, "program", chosenSlice.op),
  Escape: () => choose(null),
};
function pan(share) {
  const by = (look.to - look.from) * share;
  look.from += by;
  look.to += by;
  paint();
}
function step(along, across) {
  if (!chosenSlice) {
    const lane = lanes.find((it) => it.size && yOf(it.at) >= TOP);
    return lane && showSlice(lane, 0);
  }
  let { lane, at: index } = chosenSlice;
  if (along) index = Math.min(lane.size - 1, Math.max(0, index + along));
  else {
    const { start } = chosenSlice;
    do lane = lanes[lane.at + across];
    while (lane && !lane.size);
    if (!lane) return;
    index = 0;
    while (index + 1 < lane.size && lane.start[index + 1] <= start) index++;
  }
  showSlice(lane, index);
}
function toggleLanes() {
  const room = canvas.clientHeight - TOP;
  const all = Math.max(1, room / Math.max(1, lanes.length));
  look.lane = look.lane < 12 ? 20 : Math.min(20, all);
  if (look.lane === 20 && chosenSlice) reveal(chosenSlice.lane);
  paint();
}

if (trace) {
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, ...look, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      if (!drag.moved && Math.abs(dx) + Math.abs(dy) < 4) return;
      drag.moved = true;
      canvas.classList.add("dragged");
      const by = (dx / width()) * (drag.to - drag.from);
      look.from = drag.from - by;
      look.to = drag.to - by;
      look.top = drag.top - dy;
      tip(null);
      return paint();
    }
    hovered = at(event.offsetX, event.offsetY);
    tip(hovered, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerup", (event) => {
    canvas.classList.remove("dragged");
    if (drag && !drag.moved) {
      const it = at(event.offsetX, event.offsetY);
      const lane = lanes[Math.floor((event.offsetY - TOP + look.top) / look.lane)];
      if (event.offsetX < GUTTER && event.offsetY > TOP && lane && lane.task) go("tasks", lane.task.pid);
      else choose(it && it.lane ? it : null);
    }
    drag = null;
  });
  canvas.addEventListener("pointerleave", () => tip(null));
  canvas.addEventListener("dblclick", (event) => {
    const it = at(event.offsetX, event.offsetY);
    if (it) focusOn(it.start, it.start + it.len);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    tip(null);
    if (event.ctrlKey || event.metaKey || event.altKey) zoom(Math.exp(event.deltaY * 0.002), event.offsetX);
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      pan((event.deltaX || event.deltaY) / width());
    } else {
      look.top += event.deltaY;
      paint();
    }
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    moves[event.key]();
  });
  $("zoom-in").addEventListener("click", moves["+"]);
  $("zoom-out").addEventListener("click", moves["-"]);
  $("zoom-run").addEventListener("click", moves[0]);
  $("zoom-all").addEventListener("click", moves[9]);
  $("lanes-fit").addEventListener("click", toggleLanes);
  new ResizeObserver(paint).observe(canvas);
  $("legend").append(...data.sorts.map((words, at) => el("span", {}, mark(at), words)));
  look.from = runStart - (runEnd - runStart) * 0.02;
  look.to = runEnd + (runEnd - runStart) * 0.02;
}
let sans = "sans-serif";
let mono = "monospace";

/* What is shown where. */

const show = {
  overview,
  tasks: showTask,
  resources: showResource,
  waits: showWaits,
  timeline(pid) {
    const lane = laneOf.get(Number(pid));
    if (lane && lane.size) {
      reveal(lane);
      choose(slice(lane, 0));
    } else if (!chosenSlice) choose(null);
    paint();
  },
};

function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  readColours();
  paint();
}
const dark = window.matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
$("theme").addEventListener("click", () =>
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
$("help").addEventListener("click", () => $("keys").showModal());
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") $("search").focus();
  else if (event.key === "?") $("keys").showModal();
  else if (views[Number(event.key) - 1]) {
    const to = views[Number(event.key) - 1];
    go(to, ...(last[to] || []));
  } else return;
  event.preventDefault();
});

$("directory").textContent = "\u200e" + data.directory;
$("directory").title = data.directory;
$("tasks-count").textContent = count(tasks.length, "task");
$("resource-kind").append(el("option", { value: "" }, "all kinds"),
  ...[...new Set(resources.map((it) => it.kind))].sort().map((kind) => el("option", { value: kind }, kind)));
for (const id of ["resource-filter", "resource-kind", "resource-shared"]) $(id).addEventListener("input", filterResources);
[sans, mono] = ["--sans", "--mono"].map((name) => getComputedStyle(document.documentElement).getPropertyValue(name));
theme(dark.matches ? "dark" : "light");
filterResources();
window.addEventListener("hashchange", route);
route();

// Where a slice of a task is drawn, for those who drive the page.
window.regrow = {
  place(pid, index) {
    const lane = laneOf.get(pid);
    const box = canvas.getBoundingClientRect();
    const middle = lane.start[index] + lane.len[index] / 2;
    return { x: box.x + xOf(middle), y: box.y + yOf(lane.at) + look.lane / 2, ...slice(lane, index), lane: undefined };
  },
};
