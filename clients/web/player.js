// Plays the result of a relay: HLS from the RTMP server, where this browser can by itself; else it shows the address.

import { byId, say } from "./dom.js";

const HLS = "application/vnd.apple.mpegurl";
const RETRY_MS = 3000;

/** Where the RTMP server offers HLS: what FOURFOLD_HLS_URL says, or its usual port on the host of the page. */
const FOLDER = document.querySelector("meta[name=fourfold-hls]").content || `http://${location.hostname}:8080/hls`;

/** The address of the stream that was sent to `target`. */
export function hlsAddress(target) {
  const name = new URL(target.replace(/^rtmps?:/, "http:")).pathname.split("/").filter(Boolean).at(-1);
  return `${FOLDER}/${name}.m3u8`;
}

export class Player {
  #root = byId("player");
  #video = this.#root.querySelector("video");
  #address = "";
  #timer = 0;

  constructor() {
    byId("player-copy").addEventListener("click", () => this.#copy());
    byId("player-close").addEventListener("click", () => this.close());
    this.#video.addEventListener("error", () => this.#wait());
    this.#video.addEventListener("playing", () => say(byId("player-note"), ""));
  }

  /** Shows one relay. */
  open({ target }) {
    this.close();
    this.#address = hlsAddress(target);
    say(byId("player-title"), `Player: ${target}`);
    say(byId("player-address"), this.#address);
    this.#root.hidden = false;
    this.#root.scrollIntoView({ block: "nearest" });
    const able = this.#video.canPlayType(HLS) !== "";
    this.#video.hidden = !able;
    if (able) this.#load();
    else say(byId("player-note"), "This browser does not play HLS by itself. Open the address in a player such as VLC.");
  }

  close() {
    clearTimeout(this.#timer);
    this.#address = "";
    this.#root.hidden = true;
    this.#video.removeAttribute("src");
    this.#video.load();
  }

  #load() {
    this.#video.src = this.#address;
    this.#video.play().catch(() => {}); // told by the event
  }

  #wait() {
    if (!this.#address) return;
    say(byId("player-note"), "Nothing can be played at this address yet. Trying again.");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), RETRY_MS);
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#address);
      say(byId("player-note"), "Copied.");
    } catch {
      getSelection().selectAllChildren(byId("player-address"));
      say(byId("player-note"), "The address is selected; copy it by Ctrl-C.");
    }
  }
}
