// The way of a live frame: source -> small canvas -> encoder -> service -> decoder -> screen. At most a few frames are under way; when
// there is no room for a new picture it waits, and a newer one takes its place.

import { openDecoder, openEncoder } from "./codecs.js";
import { Meter } from "./meter.js";
import { Session } from "./session.js";
import { KEYFRAME } from "./wire.js";

const FPS = 60;
const LEAST_FRAMES = 3; // one with the encoder here, one in the service, one with the decoder here
const MOST_FRAMES = 12;
const OTHER_CODEC = "This browser's H.264 failed; JPEG goes on.";

export class Live {
  #source;
  #wanted;
  #tell;
  #encoder = null;
  #decoder = null;
  #session = null;
  #run = 0; // counts connections and sets of codecs: what belongs to an older one is forgotten
  #held = 0; // frames in this page: with the encoder or the decoder
  #waiting = false; // a picture of the source that was not sent yet
  #sending = Promise.resolve();
  #showing = Promise.resolve();
  #spare = [];
  #failed = new Set(); // "encode", "decode": what H.264 cannot do here after all

  /**
   * @param {Source} source
   * @param {{model, scale, lines, codec}} wanted `lines`: of the small picture, at most; `codec`: "auto", "h264" or "jpeg"
   * @param {object} tell what is called: show(small, large), state(name, error), switched(model, reason), note(words)
   */
  constructor(source, wanted, tell) {
    this.#source = source;
    this.#tell = tell;
    this.change(wanted);
    source.eachPicture(() => this.#picture());
  }

  /** Goes on with another model, scale, size or codec. */
  async change(wanted) {
    this.#wanted = wanted;
    this.#close();
    this.meter = new Meter();
    this.about = {}; // model, engine and precision, as the service says
    const run = this.#run;
    const { width, height } = this.#size();
    const allowed = (way) => (wanted.codec === "jpeg" || this.#failed.has(way) ? ["jpeg"] : ["h264", "jpeg"]);
    const encoder = await openEncoder(allowed("encode"), width, height);
    const decoder = await openDecoder(allowed("decode"), width * wanted.scale, height * wanted.scale);
    if (run !== this.#run) return void [encoder, decoder].forEach((codec) => codec.close());
    [this.#encoder, this.#decoder] = [encoder, decoder];
    this.#tell.state("connecting");
    this.#session = new Session(this.#start(), this.#listeners());
  }

  close() {
    this.#close();
    this.#source.close();
  }

  get codecs() {
    return this.#encoder ? { up: this.#encoder.format, down: this.#decoder.format } : null;
  }

  get underWay() {
    return this.#held + (this.#session?.underWay ?? 0);
  }

  /** How many frames may be under way: enough to fill the network, few enough to be fresh. */
  get room() {
    const network = this.meter.percentile("network", 0) ?? 0;
    return Math.min(MOST_FRAMES, LEAST_FRAMES + Math.ceil((network * FPS) / 1000));
  }

  #start() {
    const { model, scale } = this.#wanted;
    const output = { format: this.#decoder.format, quality: 85 };
    return { type: "start", model, scale, fps: FPS, late: "drop", input: { format: this.#encoder.format }, output };
  }

  #listeners() {
    const { drops } = this.meter;
    return {
      ready: (words, first) => this.#ready(words, first),
      answer: (frame, header) => this.#answer(frame, header),
      dropped: (frames, reason) => this.#giveUp(frames, () => (drops[reason] += frames.length)),
      failed: (frame) => {
        this.#encoder.restart(); // what was predicted from that frame would be damaged too
        this.#giveUp([frame], () => (drops.failed += 1));
      },
      model: (words) => this.#switched(words),
      lost: (frames) => this.#giveUp(frames, () => (drops.lost += frames.length)),
      waiting: (error) => this.#tell.state("waiting", error),
      over: (error) => this.#tell.state("over", error),
    };
  }

  #ready({ model, engine, precision }, first) {
    Object.assign(this.about, { model, engine, precision });
    if (!first) return; // only the size has changed
    this.#run += 1; // what the decoder still holds is of the connection before
    this.meter.drops.lost += this.#held;
    this.#held = 0;
    this.#encoder.restart();
    this.#decoder.restart();
    this.#tell.state("running");
    this.#picture();
  }

  #switched({ model, reason }) {
    this.about = { model }; // what computes it is not said then
    this.#tell.switched(model, reason);
  }

  /** The source has a new picture. */
  #picture() {
    this.meter.count("seen");
    if (this.#waiting && this.#session?.ready) this.meter.drops.skipped += 1;
    this.#waiting = true;
    this.#sendNewest();
  }

  #sendNewest() {
    const { width, height } = this.#size();
    if (!this.#waiting || !this.#session?.ready || !width || this.underWay >= this.room) return;
    this.#waiting = false;
    const canvas = this.#spare.pop() ?? new OffscreenCanvas(width, height);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").drawImage(this.#source.video, 0, 0, width, height);
    const frame = { canvas, taken: performance.now() };
    const [run, session] = [this.#run, this.#session];
    this.#held += 1;
    const encoded = this.#encode(canvas);
    // Encoders of pictures finish in any order; frames leave in the source's.
    this.#sending = Promise.allSettled([encoded, this.#sending]).then(([result]) => {
      if (run !== this.#run) return;
      this.#held -= 1;
      this.#leave(session, frame, result);
    });
  }

  #leave(session, frame, { value, reason }) {
    if (reason) return this.#avoid("encode");
    if (!session.ready) return this.#giveUp([frame], () => (this.meter.drops.lost += 1));
    session.send(frame, value.payload, value.keyframe, frame.taken * 1000);
    this.meter.count("sent");
    this.meter.carried("up", value.payload.byteLength);
  }

  #answer(frame, { flags, serverMs, payload }) {
    this.meter.carried("down", payload.byteLength);
    this.meter.took("service", serverMs);
    this.meter.took("network", performance.now() - frame.sentAt - serverMs);
    const run = this.#run;
    this.#held += 1;
    const decoded = this.#decode(payload, Boolean(flags & KEYFRAME));
    this.#showing = Promise.allSettled([decoded, this.#showing]).then(([result]) => {
      if (run !== this.#run) return void result.value?.close();
      this.#held -= 1;
      this.#show(frame, result);
    });
  }

  // What a codec throws at once is handled like what it says later.

  async #encode(canvas) {
    return this.#encoder.encode(canvas);
  }

  async #decode(payload, keyframe) {
    return this.#decoder.decode({ payload, keyframe });
  }

  #show(frame, { value: picture, reason }) {
    if (reason) return this.#avoid("decode");
    this.#tell.show(frame.canvas, picture);
    picture.close();
    this.meter.count("shown");
    this.meter.took("trip", performance.now() - frame.taken);
    this.#giveUp([frame], () => {});
  }

  /** These frames are over; their room is free. */
  #giveUp(frames, count) {
    count();
    this.#spare.push(...frames.filter(Boolean).map(({ canvas }) => canvas));
    this.#sendNewest();
  }

  #avoid(way) {
    if (this.#failed.has(way)) return this.#tell.note(`A picture could not be ${way}d here.`);
    this.#failed.add(way);
    this.#tell.note(OTHER_CODEC);
    return this.change(this.#wanted);
  }

  /** Of the small picture: even sides, as video has. */
  #size() {
    const { videoWidth, videoHeight } = this.#source.video;
    const shrink = Math.min(1, this.#wanted.lines / (videoHeight || 1));
    const even = (pixels) => 2 * Math.round((pixels * shrink) / 2);
    return { width: even(videoWidth), height: even(videoHeight) };
  }

  #close() {
    this.#run += 1;
    this.#held = 0;
    this.#session?.close();
    this.#session = null;
    this.#encoder?.close();
    this.#decoder?.close();
    [this.#encoder, this.#decoder] = [null, null];
  }
}
