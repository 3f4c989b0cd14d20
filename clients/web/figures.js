// What the meter says, in words: every figure with what it is of.

import { number, pair } from "./dom.js";

const NAMES = { h264: "H.264", jpeg: "JPEG" };

/** Rows for a live stream; see `list` in dom.js. */
export function liveRows(live) {
  const { meter, codecs, about } = live;
  const { late, queue_full: full, skipped, failed, lost } = meter.drops;
  const times = (what) => pair(meter.percentile(what, 0.5), meter.percentile(what, 0.95));
  const rateOf = (direction) => `${(meter.bitsPerSecond(direction) / 1e6).toFixed(1)} Mbit/s`;
  const rate = (event) => meter.rate(event).toFixed(1);
  return [
    ["Frames shown", `${rate("shown")} fps`, `of ${rate("seen")} at the source; ${rate("sent")} sent; last 2 seconds`],
    ["In the service", times("service"), "median / 95 %: its bytes in to bytes out, as it says"],
    ["Round trip", times("trip"), "median / 95 %: from picture taken to picture drawn here, without the camera's own delay"],
    ["Dropped", String(late + full + failed + lost), `by the service: ${late} late, ${full} too many, ${failed} failed; ${lost} lost with a connection`],
    ["Passed over", String(skipped), "here, for a newer picture, when the service or this browser was slower than the source"],
    ["Under way", `${live.underWay} of ${live.room}`, "frames sent and not yet drawn"],
    ["Model", about.model ?? "–", engineOf(about)],
    ["On the wire", codecs ? `${NAMES[codecs.up]} / ${NAMES[codecs.down]}` : "–", `${rateOf("up")} up, ${rateOf("down")} down`],
  ];
}

/** Rows for one picture. */
export function pictureRows({ before, after, blob, serviceMs, tripMs, about }) {
  return [
    ["In the service", `${number(serviceMs)} ms`, "from the last byte in to the first byte out, as it says"],
    ["Round trip", `${number(tripMs)} ms`, "from sending to having the picture here"],
    ["Model", about.model, engineOf(about)],
    ["Size", `${after.width} × ${after.height}`, `from ${before.width} × ${before.height}; PNG of ${Math.ceil(blob.size / 1024)} KiB`],
  ];
}

function engineOf({ engine, precision }) {
  return engine ? `${engine}, ${precision}` : "";
}
