// The page of relays: their figures once a second, one of them played, started and stopped.

import { byId, element, list, number, pair, say } from "./dom.js";
import { Player } from "./player.js";
import { call, wordsOf } from "./service.js";

const POLL_MS = 1000;
const SLOW_POLL_MS = 5000; // while there is nothing to be had
const PAGE = 1000; // relays in one answer, at most

export class Relays {
  #cards = new Map(); // by the relay's id
  #timer = 0;
  #shown = false;
  #player = new Player();
  #refused;

  /** @param {(error) => void} refused what is called when a key is needed */
  constructor(refused) {
    this.#refused = refused;
    byId("relay-form").addEventListener("submit", (event) => this.#start(event));
  }

  /** Begins or ends to ask for figures. */
  set shown(value) {
    this.#shown = value;
    clearTimeout(this.#timer);
    if (value) this.#poll();
    else this.#player.close();
  }

  /** Asks again: there is a key now. */
  resume() {
    if (this.#shown) this.shown = true;
  }

  async #poll() {
    clearTimeout(this.#timer);
    let wait = POLL_MS;
    try {
      if (!document.hidden) this.#render(await allRelays());
    } catch (error) {
      wait = SLOW_POLL_MS;
      this.#fail(error);
      if (error.code === "unauthorized") return clearTimeout(this.#timer); // until there is a key
    }
    clearTimeout(this.#timer); // another call may have set one meanwhile
    if (this.#shown) this.#timer = setTimeout(() => this.#poll(), wait);
  }

  #fail(error) {
    const missing = error.code === "not_found" || error.code === "method_not_allowed";
    say(byId("relays-note"), missing ? "This service offers no relays." : wordsOf(error));
    byId("relay-form").hidden = missing;
    this.#update([]);
    if (error.code === "unauthorized") this.#refused(error);
  }

  #render(relays) {
    byId("relay-form").hidden = false;
    say(byId("relays-note"), relays.some((relay) => !isOver(relay)) ? "" : "No relay is running.");
    this.#update(relays);
  }

  #update(relays) {
    const ids = new Set(relays.map(({ id }) => id));
    for (const [id, card] of this.#cards) {
      if (ids.has(id)) continue;
      card.remove();
      this.#cards.delete(id);
    }
    for (const relay of relays) {
      if (!this.#cards.has(relay.id)) this.#add(relay);
      fill(this.#cards.get(relay.id), relay);
    }
  }

  #add(relay) {
    const card = element("li", "", { className: "card relay" });
    const heading = element("h2");
    heading.append(element("span", relay.target), element("span", "", { className: "state" }));
    const tools = element("div", "", { className: "tools" });
    const play = element("button", "Play", { type: "button", className: "play" });
    const stop = element("button", "Stop", { type: "button", className: "stop quiet" });
    play.setAttribute("aria-label", `Play ${relay.target}`);
    play.addEventListener("click", () => this.#player.open(relay));
    stop.addEventListener("click", () => this.#stop(relay, card, stop));
    tools.append(play, stop);
    const [source, why] = [`from ${relay.source}`, ""].map((text) => element("p", text, { className: "caption" }));
    why.classList.add("why");
    card.append(heading, source, why, element("dl"), tools);
    byId("relay-list").append(card);
    this.#cards.set(relay.id, card);
  }

  async #start(event) {
    event.preventDefault();
    const { source, target, model, scale, bitrate } = event.target.elements;
    const wanted = { source: source.value, target: target.value, model: model.value, scale: Number(scale.value) };
    if (bitrate.value) wanted.bitrate = Math.round(Number(bitrate.value) * 1e6);
    say(byId("relay-form-error"), "");
    try {
      const headers = { "Content-Type": "application/json" };
      await call("v1/relays", { method: "POST", body: JSON.stringify(wanted), headers });
      event.target.reset();
      model.dispatchEvent(new Event("change")); // a reset is none: see `offer` in models.js
    } catch (error) {
      say(byId("relay-form-error"), wordsOf(error));
      if (error.code === "unauthorized") this.#refused(error);
    }
    this.#poll();
  }

  async #stop({ id, target }, card, button) {
    const over = card.classList.contains("over");
    if (!over && !confirm(`Stop the relay to ${target}? Its viewers will see it end.`)) return;
    button.disabled = true;
    try {
      await call(`v1/relays/${encodeURIComponent(id)}`, { method: "DELETE" });
    } catch (error) {
      say(byId("relays-note"), wordsOf(error));
    }
    button.disabled = false;
    this.#poll();
  }
}

/** All pages of the list. */
async function allRelays() {
  const found = [];
  const query = new URLSearchParams({ limit: PAGE });
  for (;;) {
    const { relays, next } = await (await call(`v1/relays?${query}`)).json();
    found.push(...relays);
    if (!next) return found;
    query.set("cursor", next);
  }
}

function isOver({ state }) {
  return state === "ended" || state === "failed";
}

function fill(card, relay) {
  const [state, play, stop] = ["state", "play", "stop"].map((name) => card.querySelector(`.${name}`));
  const over = isOver(relay);
  card.classList.toggle("over", over);
  say(state, relay.state);
  state.dataset.state = relay.state;
  say(card.querySelector(".why"), relay.error?.message ?? relay.reason ?? "");
  play.hidden = over || relay.target.endsWith("/…"); // sent to somebody else's server
  say(stop, over ? "Remove" : "Stop");
  stop.setAttribute("aria-label", `${stop.textContent} ${relay.target}`);
  const drops = Object.entries(relay.drops ?? {}).filter(([, count]) => count);
  const total = drops.reduce((sum, [, count]) => sum + count, 0);
  list(card.querySelector("dl"), [
    ["Frames in", `${number(relay.fps_in)} fps`],
    ["Frames out", `${number(relay.fps_out)} fps`],
    ["Latency", pair(relay.latency_ms?.p50, relay.latency_ms?.p95), `median / 95 %; 99 %: ${number(relay.latency_ms?.p99)} ms`],
    ["Dropped", String(total), drops.map(([reason, count]) => `${count} ${reason}`).join(", ") || "none"],
    ["Reconnects", String(relay.reconnects ?? 0)],
    ["Model", relay.model],
  ]);
}
