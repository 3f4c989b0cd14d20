// Small pictures to bytes, and bytes to large pictures: H.264 by WebCodecs, or JPEG. Knows nothing of the service.

const JPEG_QUALITY = 0.9;
const FPS = 60;
const BITS_PER_PIXEL = 0.15;
const KEYFRAME_FRAMES = 120;
const QUEUE = 8;

const DECODER_CODEC = "avc1.640034"; // High, 5.2
const ENCODER_CODECS = ["avc1.42e034", "avc1.42e028", "avc1.42e01f"]; // constrained baseline: 5.2, 4.0, 3.1

function encoderConfig(codec, width, height) {
  const bitrate = Math.round(width * height * FPS * BITS_PER_PIXEL);
  return { codec, width, height, bitrate, framerate: FPS, latencyMode: "realtime", avc: { format: "annexb" } };
}

/** The encoder's configuration for H.264 of this size, or null where this browser has none. */
async function h264Config(width, height) {
  if (!("VideoEncoder" in globalThis)) return null;
  for (const codec of ENCODER_CODECS) {
    const config = encoderConfig(codec, width, height);
    const { supported } = await VideoEncoder.isConfigSupported(config).catch(() => ({ supported: false }));
    if (supported) return config;
  }
  return null;
}

async function decodesH264(codedWidth, codedHeight) {
  if (!("VideoDecoder" in globalThis)) return false;
  const config = { codec: DECODER_CODEC, codedWidth, codedHeight };
  const { supported } = await VideoDecoder.isConfigSupported(config).catch(() => ({ supported: false }));
  return supported;
}

/** H.264 where this browser can, else JPEG. Both have `format`, `encode` and `close`. */
export async function openEncoder(allowed, width, height) {
  const config = allowed.includes("h264") ? await h264Config(width, height) : null;
  return config ? new H264Encoder(config) : new JpegEncoder();
}

export async function openDecoder(allowed, width, height) {
  const able = allowed.includes("h264") && (await decodesH264(width, height));
  return able ? new H264Decoder() : new JpegDecoder();
}

class JpegEncoder {
  format = "jpeg";

  /** One picture of a canvas as `{payload, keyframe}`. */
  async encode(canvas) {
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
    return { payload: new Uint8Array(await blob.arrayBuffer()), keyframe: true };
  }

  restart() {}

  close() {}
}

class JpegDecoder {
  format = "jpeg";

  /** One picture, to be drawn and then closed. */
  decode({ payload }) {
    return createImageBitmap(new Blob([payload], { type: "image/jpeg" }));
  }

  restart() {}

  close() {}
}

/** Waits of callers for what a codec gives back, by time stamp. */
class Waits {
  #waits = new Map();

  add(stamp) {
    return new Promise((resolve, reject) => this.#waits.set(stamp, { resolve, reject }));
  }

  get size() {
    return this.#waits.size;
  }

  /** Whether somebody waits for it. */
  resolve(stamp, value) {
    const wait = this.#waits.get(stamp);
    this.#waits.delete(stamp);
    wait?.resolve(value);
    return Boolean(wait);
  }

  rejectAll(error) {
    for (const wait of this.#waits.values()) wait.reject(error);
    this.#waits.clear();
  }
}

class H264Encoder {
  format = "h264";
  #waits = new Waits();
  #count = 0;
  #fresh = true;

  constructor(config) {
    this.#config = config;
    this.#encoder = new VideoEncoder({ output: (chunk) => this.#give(chunk), error: (error) => this.#waits.rejectAll(error) });
    this.#encoder.configure(config);
  }

  #config;
  #encoder;

  encode(canvas) {
    if (canvas.width !== this.#config.width || canvas.height !== this.#config.height) this.#resize(canvas);
    const timestamp = this.#count++ * Math.round(1e6 / FPS);
    const picture = new VideoFrame(canvas, { timestamp });
    this.#encoder.encode(picture, { keyFrame: this.#fresh || this.#count % KEYFRAME_FRAMES === 0 });
    this.#fresh = false;
    picture.close();
    return this.#waits.add(timestamp);
  }

  /** The next picture is a keyframe: what was before it is not known at the other end. */
  restart() {
    this.#fresh = true;
  }

  close() {
    if (this.#encoder.state !== "closed") this.#encoder.close();
    this.#waits.rejectAll(new Error("closed"));
  }

  #resize({ width, height }) {
    this.#config = encoderConfig(this.#config.codec, width, height);
    this.#encoder.configure(this.#config);
    this.#fresh = true;
  }

  #give(chunk) {
    const payload = new Uint8Array(chunk.byteLength);
    chunk.copyTo(payload);
    this.#waits.resolve(chunk.timestamp, { payload, keyframe: chunk.type === "key" });
  }
}

class H264Decoder {
  format = "h264";
  #waits = new Waits();
  #count = 0;
  #decoder = null;

  constructor() {
    this.restart();
  }

  /** One picture, to be drawn and then closed. */
  decode({ payload, keyframe }) {
    if (this.#waits.size > QUEUE) throw new Error("the decoder holds pictures back");
    const timestamp = this.#count++;
    this.#decoder.decode(new EncodedVideoChunk({ type: keyframe ? "key" : "delta", timestamp, data: payload }));
    return this.#waits.add(timestamp);
  }

  /** A keyframe follows: of a new stream, or of a new size. */
  restart() {
    this.close();
    this.#decoder = new VideoDecoder({
      output: (picture) => this.#waits.resolve(picture.timestamp, picture) || picture.close(),
      error: (error) => this.#waits.rejectAll(error),
    });
    this.#decoder.configure({ codec: DECODER_CODEC, optimizeForLatency: true });
  }

  close() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.#waits.rejectAll(new Error("closed"));
  }
}
