// node-media-server on one port of the loopback interface: node node_media_server.js MODULES PORT
const [, , modules, port] = process.argv;
const net = require("net");
const path = require("path");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (number, ready) {
  return listen.call(this, number, "127.0.0.1", ready); // the package itself listens on every address
};

const NodeMediaServer = require(path.join(modules, "node-media-server"));
const rtmp = { port: Number(port), chunk_size: 4096, gop_cache: true, ping: 30, ping_timeout: 60 };
new NodeMediaServer({ logType: 1, rtmp }).run();
