"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const trace = JSON.parse($("trace").textContent);
  const spans = trace.spans, total = Math.max(trace.length, 1);
  const ROW = 26, EDGE = 8, INDENT = 14, DEEPEST = 18, LEAST = 1000;
  const KNOWN = new Set(["completed", "failed", "running", "paused"]);
  const MARKS = { failed: "✕ failed", running: "● running", paused: "❚❚ paused" };
  const tree = $("tree"), rows = $("rows"), details = $("details"), find = $("find");

  // --- the tree

  const children = spans.map(() => []), roots = [];
  spans.forEach((span, at) => (span.parent === null ? roots : children[span.parent]).push(at));
  const place = new Int32Array(spans.length);
  [roots, ...children].forEach((list) => list.forEach((at, order) => { place[at] = order + 1; }));
  const closed = new Uint8Array(spans.length);
  const path = spans.map(() => null);
  for (const [at, start, end] of trace.critical) (path[at] = path[at] || []).push([start, end]);

  let shown = [], rowOf = new Int32Array(spans.length), active = 0;
  let from = 0, to = total, matches = [], isMatch = new Uint8Array(spans.length);

  function list() {
    shown = [];
    rowOf.fill(-1);
    const waiting = [...roots].reverse();
    while (waiting.length) {
      const at = waiting.pop();
      rowOf[at] = shown.length;
      shown.push(at);
      if (!closed[at]) for (let i = children[at].length - 1; i >= 0; i--) waiting.push(children[at][i]);
    }
    rows.style.height = `${shown.length * ROW}px`;
  }

  // --- texts

  const status = (text) => (KNOWN.has(text) ? text : "other");
  const digits = (value, most) => String(Number(value.toFixed(most)));

  function time(ns) {
    const ms = ns / 1e6;
    if (ms === 0) return "0 ms";
    if (ms < 1) return ms < 0.001 ? `${Math.round(ns)} ns` : ms < 0.1 ? `${Number((ns / 1e3).toPrecision(2))} µs` : `${Number(ms.toPrecision(2))} ms`;
    if (ms < 100) return `${ms.toFixed(1)} ms`;
    const seconds = ms / 1000;
    if (seconds < 10) return `${seconds.toFixed(2)} s`;
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const whole = Math.floor(seconds);
    for (const [unit, name, smaller, small] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
      if (whole >= unit) {
        const rest = Math.floor((whole % unit) / smaller);
        return rest ? `${Math.floor(whole / unit)}${name} ${rest}${small}` : `${Math.floor(whole / unit)}${name}`;
      }
    }
  }

  const length = (span) => (span.unfinished ? "unfinished" : time(span.end - span.start));

  // Texts of a store are data: elements are made, and texts are set, never parsed.
  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // --- rows: only those in sight are in the document

  let drawn = new Map();

  function draw() {
    const first = Math.max(0, Math.floor(tree.scrollTop / ROW) - EDGE);
    const last = Math.min(shown.length, Math.ceil((tree.scrollTop + tree.clientHeight) / ROW) + EDGE);
    const wanted = shown.slice(first, last);
    if (rowOf[active] >= 0 && (rowOf[active] < first || rowOf[active] >= last)) wanted.push(active);
    const now = new Map(wanted.map((at) => [at, placed(at)]));
    // An element that stays is not put in again: a double click needs it in its place.
    const made = [...now.values()];
    if (made.length !== rows.children.length || made.some((element, i) => rows.children[i] !== element)) rows.replaceChildren(...made);
    drawn = now;
    if (spans.length) tree.setAttribute("aria-activedescendant", `span-${active}`);
  }

  function placed(at) {
    const state = `${from} ${to} ${closed[at]} ${isMatch[at]}`;
    let element = drawn.get(at);
    if (!element || element.dataset.state !== state) element = rowElement(at);
    element.dataset.state = state;
    element.style.transform = `translateY(${rowOf[at] * ROW}px)`;
    element.classList.toggle("active", at === active);
    element.setAttribute("aria-selected", at === active);
    return element;
  }

  function rowElement(at) {
    const span = spans[at], element = make("div", "row");
    element.id = `span-${at}`;
    element.dataset.at = at;
    if (path[at]) element.classList.add("path");
    if (isMatch[at]) element.classList.add("hit");
    element.setAttribute("role", "treeitem");
    element.setAttribute("aria-level", span.depth + 1);
    element.setAttribute("aria-posinset", place[at]);
    element.setAttribute("aria-setsize", (span.parent === null ? roots : children[span.parent]).length);
    if (children[at].length) element.setAttribute("aria-expanded", !closed[at]);
    element.setAttribute("aria-label", described(at));
    element.append(nameCell(at), make("span", "num", span.unfinished ? "–" : length(span)), track(at));
    return element;
  }

  function described(at) {
    const span = spans[at];
    return [span.name, span.status, length(span), path[at] && "on the critical path", span.error].filter(Boolean).join(", ");
  }

  function nameCell(at) {
    const span = spans[at], cell = make("span", "name");
    cell.style.paddingLeft = `${Math.min(span.depth, DEEPEST) * INDENT}px`;
    const fold = make("span", "fold", children[at].length ? (closed[at] ? "▶" : "▼") : "");
    cell.append(fold, make("b", "", span.name));
    cell.title = described(at);
    if (span.status !== "completed") cell.append(make("em", `t-${status(span.status)}`, MARKS[span.status] || span.status));
    if (closed[at] && children[at].length) cell.append(make("span", "more", `+${below(at)}`));
    return cell;
  }

  function below(at) {
    let count = 0;
    const waiting = [...children[at]];
    while (waiting.length) { count++; waiting.push(...children[waiting.pop()]); }
    return count;
  }

  function track(at) {
    const span = spans[at], element = make("div", "track");
    const bar = make("div", `b-${status(span.status)}${span.unfinished ? " open" : ""}`);
    const left = share(span.start), right = share(span.end);
    position(bar, left, right);
    element.append(bar);
    for (const [start, end] of path[at] || []) {
      const line = make("i");
      position(line, share(start), share(end));
      element.append(line);
    }
    if (span.error && Math.max(left, 100 - right) > 12) element.append(errorNote(span, left, right));
    return element;
  }

  function errorNote(span, left, right) {
    const note = make("span", `t-${status(span.status)}`, span.error);
    const a = Math.min(Math.max(left, 0), 100), b = Math.min(Math.max(right, 0), 100);
    if (100 - b >= a) { note.style.left = `calc(${b}% + 8px)`; note.style.right = "0"; }
    else { note.style.right = `calc(${100 - a}% + 8px)`; note.style.left = "0"; note.style.textAlign = "right"; }
    return note;
  }

  const share = (ns) => ((ns - from) / (to - from)) * 100;

  function position(element, left, right) {
    const a = Math.max(left, -1), b = Math.min(right, 101);
    if (b < 0 || a > 100) { element.hidden = true; element.style.display = "none"; return; }
    element.style.left = `min(${a}%, 100% - 2px)`;
    element.style.width = `${Math.max(b - a, 0)}%`;
  }

  // --- the axis and the overview

  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400].map((s) => s * 1e9);

  function step(least) {
    if (least > 1e9) return STEPS.find((each) => each >= least) || Math.ceil(least / 86400e9) * 86400e9;
    const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
    return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least);
  }

  function axis() {
    const width = $("axis").clientWidth || 400, each = step((to - from) / Math.max(2, Math.floor(width / 70)));
    const labels = [], lines = [];
    for (let at = Math.ceil(from / each) * each; at <= to; at += each) {
      const left = share(at), label = make("span", left < 4 ? "first" : left > 96 ? "last" : "", mark(at, each));
      label.style.left = `${left}%`;
      labels.push(label);
      const line = make("i");
      line.style.left = `${left}%`;
      line.style.height = `${tree.clientHeight}px`;
      lines.push(line);
    }
    $("axis").replaceChildren(...labels);
    $("lines").firstElementChild.replaceChildren(...lines);
  }

  function mark(at, each) {
    if (at === 0) return "0";
    if (each >= 1e9) return at < 60e9 ? `${at / 1e9} s` : time(at);
    const [unit, name] = at >= 1e9 ? [1e9, "s"] : at >= 1e6 ? [1e6, "ms"] : at >= 1e3 ? [1e3, "µs"] : [1, "ns"];
    return `${digits(at / unit, 9)} ${name}`;
  }

  function overview() {
    const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect(), scale = devicePixelRatio || 1;
    canvas.width = Math.max(1, box.width * scale);
    canvas.height = Math.max(1, box.height * scale);
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colours = { other: style.getPropertyValue("--cancelled") };
    for (const name of KNOWN) colours[name] = style.getPropertyValue(`--${name}`);
    const usable = canvas.height - 8 * scale, thick = Math.max(1, Math.min(6 * scale, usable / Math.max(spans.length, 1)));
    const order = spans.map((_, at) => at).sort((a, b) => (spans[a].status === "failed") - (spans[b].status === "failed"));
    for (const at of order) {
      const span = spans[at], y = 4 * scale + (at / Math.max(spans.length, 1)) * usable;
      pen.fillStyle = colours[status(span.status)];
      const wide = ((span.end - span.start) / total) * canvas.width;
      pen.fillRect((span.start / total) * canvas.width, y, Math.max(wide, scale), Math.max(thick - (thick > 3 ? 1 : 0), 1));
    }
  }

  function showWindow() {
    const box = $("window");
    box.style.left = `${(from / total) * 100}%`;
    box.style.width = `${((to - from) / total) * 100}%`;
    box.classList.toggle("whole", from === 0 && to === total);
    $("fit").disabled = $("out").disabled = from === 0 && to === total;
  }

  function zoomTo(start, end, quiet) {
    const wide = Math.min(Math.max(end - start, LEAST), total);
    from = Math.min(Math.max(start, 0), total - wide);
    to = from + wide;
    showWindow();
    axis();
    draw();
    if (!quiet) say(`Showing ${time(from)} to ${time(to)} of ${time(total)}`);
  }

  function zoom(factor, centre) {
    const middle = centre === undefined ? (from + to) / 2 : centre, wide = (to - from) * factor;
    const at = (middle - from) / (to - from);
    zoomTo(middle - wide * at, middle + wide * (1 - at));
  }

  const move = (part) => zoomTo(from + (to - from) * part, to + (to - from) * part);
  const say = (text) => { $("live").textContent = text; };

  function zoomToSpan(at) {
    const span = spans[at], wide = Math.max(span.end - span.start, LEAST);
    zoomTo(span.start - wide * 0.05, span.end + wide * 0.05);
  }

  // --- the selected span

  function select(at, scroll = true) {
    active = at;
    for (let above = spans[at].parent, changed = false; ; above = spans[above].parent) {
      if (above === null) { if (changed) list(); break; }
      if (closed[above]) { closed[above] = 0; changed = true; }
    }
    if (scroll) {
      const top = rowOf[at] * ROW + 4, above = tree.scrollTop + 4 - top, under = top + ROW + 12 - tree.scrollTop - tree.clientHeight;
      if (Math.max(above, under) > 2 * ROW) tree.scrollTop = top - (tree.clientHeight - ROW) / 2;
      else if (above > 0) tree.scrollTop -= above;
      else if (under > 0) tree.scrollTop += under;
    }
    draw();
    describe();
  }

  function describe() {
    const span = spans[active];
    if (!span) { details.replaceChildren(make("p", "hint", "No spans.")); return; }
    const made = [make("h2", "", span.name), make("span", `t-${status(span.status)}`, MARKS[span.status] || span.status)];
    if (span.error) made.push(make("p", "error", span.error));
    made.push(facts(span));
    const names = Object.keys(span.attributes);
    const head = make("h3", "", `Attributes (${names.length})`);
    if (names.length) head.append(copyButton(() => JSON.stringify(span.attributes, null, 2), "attributes"));
    made.push(head, names.length ? attributes(span) : make("p", "hint", "This span has no attributes."));
    details.replaceChildren(...made);
  }

  function facts(span) {
    const box = make("dl");
    const add = (name, value) => {
      if (value === null || value === undefined || value === "") return;
      const cell = make("dd");
      cell.append(value);
      box.append(make("dt", "", name), cell);
    };
    add("Starts", `${time(span.start)} after the start`);
    add("At", span.started_at);
    add("Takes", span.unfinished ? "unfinished" : time(span.end - span.start));
    add("Itself", children[active].length && !span.unfinished ? `${time(own(active))} without children` : null);
    const waited = (path[active] || []).reduce((sum, [start, end]) => sum + end - start, 0);
    add("Waited for", path[active] ? `${time(waited)}, ${digits((waited / total) * 100, 1)}% of the run` : null);
    add("Children", children[active].length ? `${children[active].length}` : null);
    if (span.parent !== null) {
      const parent = span.parent, button = make("button", "jump", spans[parent].name);
      button.type = "button";
      button.addEventListener("click", () => { select(parent); tree.focus(); });
      add("Parent", button);
    }
    add("Id", span.span_id);
    return box;
  }

  function own(at) {
    const span = spans[at];
    let covered = 0, cursor = span.start;
    for (const child of [...children[at]].sort((a, b) => spans[a].start - spans[b].start)) {
      const start = Math.max(spans[child].start, cursor), end = Math.min(spans[child].end, span.end);
      if (end > start) { covered += end - start; cursor = end; }
    }
    return span.end - span.start - covered;
  }

  function attributes(span) {
    const box = make("dl", "attributes");
    for (const [name, value] of Object.entries(span.attributes)) {
      box.append(make("dt", "", name), make("dd", "", typeof value === "string" ? value : JSON.stringify(value, null, 2)));
    }
    return box;
  }

  function copyButton(text, what) {
    const button = make("button", "", "Copy JSON");
    button.type = "button";
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(text()); } catch { byHand(text()); }
      button.textContent = "Copied";
      say(`Copied the ${what}`);
      setTimeout(() => { button.textContent = "Copy JSON"; }, 1500);
    });
    return button;
  }

  function byHand(text) {
    const area = make("textarea", "hidden", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  // --- why the run failed, at first sight

  function showFailure(failure) {
    if (!failure) { $("failure").remove(); return; }
    const box = $("failure");
    box.textContent = failure.error ? `${failure.step ? `${failure.step}: ` : ""}${failure.error}` : `failed at ${failure.step}`;
    box.hidden = false;
    box.disabled = failure.span === null;
    box.addEventListener("click", () => { select(failure.span); tree.focus(); });
  }

  // --- search, failed spans, the critical path

  let texts = null;

  function textOf(at) {
    texts = texts || new Array(spans.length);
    const span = spans[at];
    texts[at] = texts[at] || [span.name, span.status, span.span_id, span.error, JSON.stringify(span.attributes)].join("\n").toLowerCase();
    return texts[at];
  }

  function search() {
    const wanted = find.value.trim().toLowerCase();
    isMatch.fill(0);
    matches = wanted ? spans.map((_, at) => at).filter((at) => textOf(at).includes(wanted)) : [];
    for (const at of matches) isMatch[at] = 1;
    for (const id of ["found", "previous", "next"]) $(id).classList.toggle("idle", !wanted);
    $("previous").disabled = $("next").disabled = !matches.length;
    if (matches.length && !isMatch[active]) select(matches.find((at) => at >= active) ?? matches[0]);
    else draw();
    count();
  }

  function count() {
    const order = matches.indexOf(active) + 1;
    $("found").textContent = !find.value.trim() ? "" : !matches.length ? "no match" : order ? `${order} of ${matches.length}` : `${matches.length} found`;
  }

  function go(among, forward) {
    if (!among.length) return;
    const next = forward ? among.find((at) => at > active) ?? among[0] : among.findLast((at) => at < active) ?? among[among.length - 1];
    select(next);
    count();
  }

  const failures = spans.map((_, at) => at).filter((at) => spans[at].status === "failed");

  function togglePath() {
    const on = tree.parentElement.classList.toggle("on-path");
    $("path").setAttribute("aria-pressed", on);
    say(on ? "Spans off the critical path are dimmed" : "All spans are shown alike");
  }

  function setClosed(at, value) {
    if (!children[at].length || closed[at] === Number(value)) return;
    closed[at] = Number(value);
    list();
    draw();
  }

  function toggleAll() {
    const close = !closed.some(Boolean);
    children.forEach((list, at) => { closed[at] = Number(close && list.length > 0 && spans[at].depth > 0); });
    if (close) while (spans[active].parent !== null && spans[active].depth > 1) active = spans[active].parent;
    $("fold").textContent = close ? "Expand all" : "Collapse all";
    list();
    select(active);
  }

  // --- keys

  const page = () => Math.max(1, Math.floor(tree.clientHeight / ROW) - 1);
  const toRow = (row) => select(shown[Math.min(Math.max(row, 0), shown.length - 1)]);

  const TREE_KEYS = {
    ArrowDown: () => toRow(rowOf[active] + 1),
    ArrowUp: () => toRow(rowOf[active] - 1),
    ArrowRight: () => (closed[active] ? setClosed(active, false) : children[active].length && select(children[active][0])),
    ArrowLeft: () => (children[active].length && !closed[active] ? setClosed(active, true) : spans[active].parent !== null && select(spans[active].parent)),
    Home: () => toRow(0),
    End: () => toRow(shown.length - 1),
    PageDown: () => toRow(rowOf[active] + page()),
    PageUp: () => toRow(rowOf[active] - page()),
    Enter: () => details.focus(),
    " ": () => setClosed(active, !closed[active]),
  };

  const KEYS = {
    "/": () => { find.focus(); find.select(); },
    n: () => go(matches, true), N: () => go(matches, false),
    f: () => go(failures, true), F: () => go(failures, false),
    c: togglePath, x: toggleAll, z: () => zoomToSpan(active),
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => zoomTo(0, total),
    "[": () => move(-0.25), "]": () => move(0.25),
    "?": () => $("help").showModal(),
    Escape: () => tree.focus(),
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || !spans.length) return;
    if (event.target === find) { findKey(event); return; }
    const act = (event.target === tree && TREE_KEYS[event.key]) || KEYS[event.key] || KEYS[event.shiftKey ? event.key : event.key.toLowerCase()];
    if (act) { event.preventDefault(); act(); count(); }
  });

  function findKey(event) {
    if (event.key === "Enter") { event.preventDefault(); go(matches, !event.shiftKey); }
    else if (event.key === "ArrowDown") { event.preventDefault(); tree.focus(); }
    else if (event.key === "Escape") { event.preventDefault(); if (find.value) { find.value = ""; search(); } else tree.focus(); }
  }

  // --- mouse

  rows.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (!row) return;
    const at = Number(row.dataset.at);
    if (event.target.classList.contains("fold")) setClosed(at, !closed[at]);
    select(at, false);
    count();
  });
  rows.addEventListener("dblclick", (event) => {
    const row = event.target.closest(".row");
    if (row && !event.target.classList.contains("fold")) zoomToSpan(Number(row.dataset.at));
  });
  tree.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const box = $("axis").getBoundingClientRect(), part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    zoom(event.deltaY > 0 ? 1.25 : 0.8, from + part * (to - from));
  }, { passive: false });

  let dragged = null;
  const overviewTime = (event) => {
    const box = $("overview").getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * total;
  };
  $("overview").addEventListener("pointerdown", (event) => {
    dragged = overviewTime(event);
    $("overview").setPointerCapture(event.pointerId);
  });
  $("overview").addEventListener("pointermove", (event) => {
    if (dragged === null) return;
    const now = overviewTime(event);
    if (Math.abs(now - dragged) > total / 200) zoomTo(Math.min(dragged, now), Math.max(dragged, now), true);
  });
  $("overview").addEventListener("pointerup", () => { dragged = null; });
  $("overview").addEventListener("dblclick", () => zoomTo(0, total));

  // --- start

  $("find").addEventListener("input", search);
  $("previous").addEventListener("click", () => go(matches, false));
  $("next").addEventListener("click", () => go(matches, true));
  $("failed").addEventListener("click", () => go(failures, true));
  $("path").addEventListener("click", togglePath);
  $("fold").addEventListener("click", toggleAll);
  $("in").addEventListener("click", () => zoom(0.5));
  $("out").addEventListener("click", () => zoom(2));
  $("fit").addEventListener("click", () => zoomTo(0, total));
  $("keys").addEventListener("click", () => $("help").showModal());
  let asked = false;
  tree.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  });
  new ResizeObserver(() => { overview(); axis(); draw(); }).observe(tree);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", overview);

  $("title").textContent = trace.title;
  $("status").textContent = trace.status;
  $("status").classList.add(`t-${status(trace.status)}`);
  $("facts").textContent = trace.facts.join(" · ");
  showFailure(trace.failure);
  $("failed").disabled = !failures.length;
  if (failures.length) $("failed").textContent = `Next failed (${failures.length})`;
  list();
  showWindow();
  search();
  axis();
  if (trace.failure && trace.failure.span !== null) select(trace.failure.span);
  else describe();
  tree.focus({ preventScroll: true });
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
