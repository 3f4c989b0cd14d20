// Counts frames and times them. Rates are of the last two seconds, latencies of the last 120 frames, drops since the start.

const WINDOW_MS = 2000;
const LATENCIES = 120;

export class Meter {
  #events = { seen: [], sent: [], shown: [] };
  #bytes = { up: [], down: [] };
  #times = { service: [], trip: [], network: [] };
  #started = performance.now();
  drops = { late: 0, queue_full: 0, skipped: 0, failed: 0, lost: 0 };

  /** A frame was `seen` at the source, `sent`, or `shown`. */
  count(event) {
    this.#events[event].push(performance.now());
  }

  /** Bytes went `up` to the service or `down` from it. */
  carried(direction, bytes) {
    this.#bytes[direction].push([performance.now(), bytes]);
  }

  /** Milliseconds of one frame: inside the `service`, on the `network`, or of its whole round `trip`. */
  took(what, ms) {
    this.#times[what].push(ms);
    if (this.#times[what].length > LATENCIES) this.#times[what].shift();
  }

  /** Frames a second. */
  rate(event) {
    return this.#recent(this.#events[event], (at) => at).length / this.#seconds();
  }

  bitsPerSecond(direction) {
    const sizes = this.#recent(this.#bytes[direction], ([at]) => at).map(([, bytes]) => bytes);
    return (8 * sizes.reduce((sum, bytes) => sum + bytes, 0)) / this.#seconds();
  }

  /** Percentile `share` (0 to 1) in milliseconds; null before the first frame. */
  percentile(what, share) {
    const sorted = [...this.#times[what]].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
  }

  #seconds() {
    return Math.max(250, Math.min(WINDOW_MS, performance.now() - this.#started)) / 1000;
  }

  #recent(list, timeOf) {
    const since = performance.now() - WINDOW_MS;
    while (list.length && timeOf(list[0]) < since) list.shift();
    return list;
  }
}
