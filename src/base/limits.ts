/**
 * Every limit on input from outside and on memory held, each with its reason. Sizes are bytes.
 * A limit that is exceeded is an OcifsError("limit") that names the limit and the value found.
 */
export const limits = {
  /** The distribution spec asks registries to accept 4 MiB manifests; nothing larger is a manifest. */
  manifestBytes: 4 << 20,
  /** An image config holds history and env; 8 MiB is far beyond any seen. */
  configBytes: 8 << 20,
  /** Error bodies are quoted in messages; more than this is not an error message. */
  errorBodyBytes: 8 << 10,
  /** A token response is a few KiB of JWT. */
  tokenBytes: 1 << 20,
  /** docker config.json and auth.json; erofs-utils uses the same limit. */
  dockerConfigBytes: 4 << 20,
  /** A hosts.toml, and each certificate that it names: all of the web's authorities are 220 KiB. */
  hostsFileBytes: 1 << 20,
  /** Mirrors of one registry: each that is dead costs a connection's timeout once in a while. */
  registryMirrors: 16,
  /** Output of a credential helper. */
  credentialHelperBytes: 1 << 20,
  /** OCI image manifests of more than 127 layers cannot be run by overlayfs; leave room for merged images. */
  layers: 1024,
  /** Entries of an image index. */
  indexManifests: 1024,
  /** HTTP redirects followed for one request. */
  redirects: 5,
  /** One PAX header or GNU long name record block: names of 4 KiB, xattrs of 64 KiB each, with room. */
  paxBytes: 8 << 20,
  /** Linux PATH_MAX without its NUL; a tar path or link target above it cannot be created or read. */
  pathBytes: 4095,
  /** Linux NAME_MAX, and EROFS' own limit of a directory entry name. */
  nameBytes: 255,
  /** Linux XATTR_SIZE_MAX, XATTR_NAME_MAX; EROFS value sizes are u16. */
  xattrValueBytes: 65535,
  xattrNameBytes: 255,
  /** EROFS xattr area of one inode: icount is u16, 4 bytes a unit. */
  xattrAreaBytes: 65535 * 4,
  /** Entries of one layer's tar. 16 M inodes are 1 GiB of index: above that something is wrong. */
  tarEntries: 16 << 20,
  /** Depth of directories, as EROFS readers of the kernel allow far more; guards recursion. */
  pathDepth: 2048,
  /** Records of a zinfo: at 1 MiB a span, 1 TiB of uncompressed tar. */
  checkpoints: 1 << 20,
  /** A tarindex file is mapped, not read; this bounds what is accepted at all. */
  tarindexBytes: 8 * 2 ** 30,
  /** Uncompressed tar of one layer; EROFS 48-bit addresses allow more, no registry stores it. */
  layerTarBytes: 16 * 2 ** 40,
  /** The compressed size of one blob. */
  blobBytes: 4 * 2 ** 40,
  /** A read that waits longer than a day is a hang; it also keeps every timer below 2^31 ms, where setTimeout wraps to 1 ms. */
  timeoutMs: 24 * 3_600_000,
  /** Alternative locations of one foreign layer. */
  descriptorUrls: 16,
  /** An index may name an index; deeper nesting than this is no image. */
  indexDepth: 4,
  /** Servers one registry client keeps connections to: the registry, its token server, and the stores it redirects to. */
  originPools: 16,
  /** Attempts of one request, or of one range without progress; the deadline usually ends the series first. */
  attempts: 12,
  /** Challenges in one WWW-Authenticate header, and parameters in one challenge; real ones have one of three. */
  authChallenges: 16,
  authParameters: 32,
  /** Tokens one client keeps, one a repository. */
  authTokens: 256,
  /** A credential helper may ask the user something, but a mount must not hang on it. */
  credentialHelperMs: 30_000,
  /** Fewer bytes than this within a body timeout is a stalled server, not a slow one; also what counts as progress of a retry. */
  progressBytes: 16 << 10,
  /** Read to the end instead of closing the connection when a response body is not wanted. */
  discardedBodyBytes: 64 << 10,
  /** The sparse map of one tar entry: 300,000 pieces; more is no file that was worth storing as sparse. */
  tarSparseMapBytes: 8 << 20,
  /** Chunks of one sparse file in a tarindex: 8 bytes each, 8 MiB of index for one file. */
  sparseChunks: 1 << 20,
  /** The same for all sparse files of a layer, 32 MiB of index: a few bytes of tar can ask for 8 MiB of it. */
  sparseChunksOfLayer: 1 << 22,
  /** Names, link targets and xattrs of one tree in memory; the largest layers seen hold a few tens of MB. */
  treeBytes: 1 << 30,
  /** An index's JSON: 69 bytes of span digest for each of `checkpoints`, and what `impliedDirectories` and `danglingLinkBytes` need. */
  indexJsonBytes: 128 << 20,
  /** Directories of one layer that its tar has no entry for: ten bytes of JSON each. Builders that leave them out leave out a few. */
  impliedDirectories: 1 << 20,
  /** Paths and targets of one layer's hard links to layers below; a third more as base64 in JSON. */
  danglingLinkBytes: 16 << 20,
  /** Entries of all layers of an image together, which the merge reads once each: 80 bytes of memory a new name. */
  imageEntries: 16 << 20,
  /** Downloads one process shares out at once: each has a file, and a connection or a place in the queue for one. */
  inFlightStreams: 1024,
  /** Connections of the proxy's clients, and answers with a body under way: each holds one chunk of 128 KiB. */
  proxyConnections: 1024,
  proxyStreams: 256,
  /** What the proxy remembers of who was allowed to read what. */
  proxyConfirmations: 16384,
  /** A client of the proxy that takes no chunk in this time has left without saying so, or holds a place for nothing. */
  proxyStallMs: 60_000,
  /** A request of a client of the proxy, from its first byte to the end of its header. */
  proxyRequestMs: 30_000,
  /** What a tag last meant, in the cache: a name of 255 characters, a tag of 128, a digest, a platform. */
  tagRecordBytes: 4 << 10,
  /** How long a mount that knows what a tag last meant waits for the registry before it does without: users expect seconds. */
  tagCheckMs: 5_000,
  /** Processes that share one cache directory: each has 16 bytes in its file of reservations, which every reservation reads. */
  cacheProcesses: 1024,
  /** Layers whose index is built at the same time: as many as a registry client transfers, at about 10 MiB of buffers each. */
  layersBuiltAtOnce: 8,
  /** Header fields of one HTTP response: twice what Node allows by default, since signed redirects are long. */
  httpHeaderBytes: 32 << 10,
  /** Nesting of JSON from outside; image documents need six levels. Deep nesting overflows the stack of what walks it. */
  jsonDepth: 64,
  /** A password, from a file or standard input: a line. */
  passwordBytes: 64 << 10,
  /** One message on the control socket; the status of a large image is a few KiB. */
  controlMessageBytes: 4 << 20,
  /** Clients of one control socket at a time: people and their monitoring. */
  controlConnections: 64,
  /** Requests of one client that are being answered or wait to be sent; the next is read when there are fewer. */
  controlRequests: 16,
  /** Failed reads that the kernel may ask for again within a tenth of a second; it keeps fewer requests than that waiting. */
  freshFailures: 1024,
  /** What the daemon says to its helper before it is ready: a line of JSON with a sentence or two. */
  readinessBytes: 64 << 10,
  /** What a daemon keeps of one mount for the next daemon, in a memory file: the mount's options. */
  keptStateBytes: 1 << 20,
  /** Mounts of one daemon: each takes threads, descriptors and a slot of the cache's 1024 (`cacheProcesses`). */
  mountsOfDaemon: 512,
  /** Variables, arguments, volumes or ports in an image config: Linux passes no more arguments of a sensible size to a process. */
  runSettings: 4096,
  /** passwd and group of an image, each: ten thousand users with room. */
  userFileBytes: 1 << 20,
  /** Snapshots of one snapshotter: a hundred for each of the few hundred containers that a node runs. */
  snapshots: 65_536,
  /** A snapshot's record: name, parent and labels, of which containerd allows 4 KiB each. */
  snapshotRecordBytes: 256 << 10,
  /** Filters of one list request; containerd's own have one. */
  snapshotFilters: 64,
  /** One request of containerd to the snapshotter: a name and labels. */
  snapshotRequestBytes: 1 << 20,
  /** Requests of one connection that are being answered; further ones wait in HTTP/2's flow. */
  snapshotRequests: 256,
  /** Images whose layers the snapshotter remembers, and images it refused: pulls that go on at a time, and a little more. */
  snapshotImages: 64,
  /** Mounts that are made again at a time after a start: each starts a process. */
  snapshotMountsAtOnce: 4,
  /** One line of the log; longer ones are cut. */
  logLineCharacters: 8 << 10,
  /** Different messages whose repetitions are counted. */
  logMessages: 1024,
  /** Lines a minute of one message, and of all together: a network that is down must not fill the disk. */
  logRepeatsPerMinute: 20,
  logLinesPerMinute: 1000,
  /** Spans in the access profile of one layer, at 1 MiB each as many bytes as programs read while they start; more is a copy. */
  profileReads: 1024,
  /** Such a profile: 40 characters a span, and room. */
  profileBytes: 64 << 10,
  /** A literal chunk of splitfdstream and splitdirfdstream, as their readers have it. */
  splitChunkBytes: 256 << 20,
  /** The name of a file beside a splitdirfdstream: Linux PATH_MAX. */
  splitNameBytes: 4096,
  /** Directories, and with splitfdstream files, that come beside one stream: below the 1024 descriptors that most processes may have. */
  streamFds: 900,
  /** Clients of `ocifs serve` at a time, and streams it writes at the same time: each holds a layer open. */
  serveConnections: 64,
  serveStreams: 16,
  /** A client that takes nothing of an answer or a stream for this long is gone. */
  serveStallMs: 60_000,
} as const;
