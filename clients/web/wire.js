// The binary messages of /v1/stream: a header of 24 bytes, little-endian, then the payload. Knows nothing of sockets or pictures.

export const KEYFRAME = 1;
export const END = 2;
const HEADER_BYTES = 24;

/** One message from a header and its payload (a Uint8Array). */
export function packFrame({ sequence, flags = 0, ptsUs = 0 }, payload = new Uint8Array()) {
  const message = new Uint8Array(HEADER_BYTES + payload.byteLength);
  const view = new DataView(message.buffer);
  view.setUint32(0, sequence, true);
  view.setUint32(4, flags, true);
  view.setBigInt64(8, BigInt(Math.round(ptsUs)), true);
  message.set(payload, HEADER_BYTES);
  return message;
}

/** Header and payload of a message (an ArrayBuffer); the payload is a view of it. */
export function parseFrame(message) {
  const view = new DataView(message);
  return {
    sequence: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    serverMs: view.getUint32(16, true) / 1000,
    payload: new Uint8Array(message, HEADER_BYTES),
  };
}
