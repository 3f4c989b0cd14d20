// One conversation with /v1/stream that comes back by itself: after a restart, a lost network or a full service it connects again.
// Knows which frames are under way; knows nothing of codecs or pictures.

import { ServiceError, addressOf, call, keyStore } from "./service.js";
import { END, KEYFRAME, packFrame, parseFrame } from "./wire.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;

// How long nothing may come, until a connection counts as lost.
const CONNECT_MS = 10_000;
const READY_MS = 120_000; // the service may have to compile an engine before its first word
const SILENCE_MS = 30_000; // afterwards it speaks at least once a second

/** Another try makes sense after these; after any other code the same would be refused again. */
const PASSING = new Set([
  ...["away", "bad_output", "busy", "crashed", "engine_timeout", "engine_unavailable", "gpu_oom", "internal"],
  ...["quota", "rate", "restart", "slow_body", "slow_consumer", "unreadable"],
]);

export class Session {
  #socket = null;
  #timer = 0; // of the next try, or of the silence
  #waitMs = FIRST_WAIT_MS;
  #ended = false;
  #sequence = 0;
  #error = null;
  #underWay = new Map();

  /**
   * @param {object} start the start message
   * @param {object} tell what is called: ready(words, first) with `first` once a connection, answer(frame, header),
   *   dropped(frames, reason), failed(frame), model(words), lost(frames) when a connection ends, waiting(error) before another
   *   try, over(error) when there is none
   */
  constructor(start, tell) {
    this.#tell = tell;
    this.#start = start;
    this.ready = false;
    this.#connect();
  }

  #start;
  #tell;

  /** Frames that were sent and not answered. */
  get underWay() {
    return this.#underWay.size;
  }

  /** Sends one frame; `frame` is given back with its answer. */
  send(frame, payload, keyframe, ptsUs) {
    const sequence = this.#sequence++;
    this.#underWay.set(sequence, frame);
    frame.sentAt = performance.now();
    this.#socket.send(packFrame({ sequence, flags: keyframe ? KEYFRAME : 0, ptsUs }, payload));
  }

  close() {
    this.#ended = true;
    clearTimeout(this.#timer);
    if (this.ready) this.#socket.send(packFrame({ sequence: this.#sequence, flags: END }));
    this.#socket?.close(1000);
    this.#lose();
  }

  #connect() {
    const key = keyStore.get();
    const address = addressOf("v1/stream", location.protocol.replace("http", "ws"));
    const socket = new WebSocket(address, key ? [`fourfold.bearer.${key}`] : []);
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.#await(READY_MS);
      socket.send(JSON.stringify(this.#start));
    };
    socket.onmessage = ({ data }) => {
      if (this.#ended) return;
      this.#await(SILENCE_MS);
      if (typeof data === "string") this.#hear(JSON.parse(data));
      else this.#receive(data);
    };
    socket.onclose = () => this.#ended || this.#closed(opened);
    this.#socket = socket;
    this.#sequence = 0;
    this.#error = null;
    this.#await(CONNECT_MS);
  }

  /** Gives the connection up unless something comes in time. */
  #await(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#error ??= new ServiceError("away", `nothing came for ${ms / 1000} s.`);
      this.#socket.onclose = null; // it comes late or never where nobody answers
      this.#socket.close();
      this.#closed(true);
    }, ms);
  }

  #hear(words) {
    if (words.type === "ready") {
      const first = !this.ready;
      this.ready = true;
      this.#waitMs = FIRST_WAIT_MS;
      this.#tell.ready(words, first);
    } else if (words.type === "dropped") {
      this.#tell.dropped(words.sequence.map((number) => this.#take(number)).filter(Boolean), words.reason);
    } else if (words.type === "model") {
      this.#tell.model(words);
    } else if (words.type === "error" && "sequence" in words) {
      this.#tell.failed(this.#take(words.sequence));
    } else if (words.type === "error") {
      this.#error = new ServiceError(words.code, words.message);
    }
  }

  #receive(message) {
    const header = parseFrame(message);
    const frame = this.#take(header.sequence);
    if (frame) this.#tell.answer(frame, header);
  }

  #take(number) {
    const frame = this.#underWay.get(number);
    this.#underWay.delete(number);
    return frame;
  }

  #lose() {
    this.ready = false;
    const frames = [...this.#underWay.values()];
    this.#underWay.clear();
    this.#tell.lost(frames);
  }

  async #closed(opened) {
    clearTimeout(this.#timer);
    this.#lose();
    const error = this.#error ?? (await this.#reason(opened));
    if (this.#ended) return;
    if (!PASSING.has(error.code)) {
      this.#ended = true;
      this.#tell.over(error);
      return;
    }
    this.#tell.waiting(error);
    this.#timer = setTimeout(() => this.#connect(), this.#waitMs);
    this.#waitMs = Math.min(LONGEST_WAIT_MS, this.#waitMs * 2);
  }

  /** Why a socket closed without a word: browsers do not show the answer to a refused handshake, so another request asks. */
  async #reason(opened) {
    try {
      await call("v1/models", { signal: AbortSignal.timeout(CONNECT_MS) });
    } catch (error) {
      return error;
    }
    if (opened) return new ServiceError("away", "the connection broke off.");
    return new ServiceError("busy", "it takes no session now. It, or your key, has as many as it may, or the key lacks the scope streams.");
  }
}
