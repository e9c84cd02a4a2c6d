{
  "targets": [{
    "target_name": "ocifs",
    "sources": [
      "addon.cc", "memory/binding.cc",
      "erofs/image.cc", "erofs/format.cc", "erofs/inode.cc", "erofs/extents.cc", "erofs/directory.cc", "erofs/xattr.cc", "erofs/listing.cc",
      "erofs/binding.cc",
      "inflate/span_decoder.cc", "inflate/gzip_framing.cc", "inflate/checkpoint_writer.cc", "inflate/recorder.cc", "inflate/zstd_stream.cc", "inflate/zinfo_table.cc", "inflate/binding.cc",
      "sparse/sparse.cc", "sparse/tree_usage.cc", "sparse/binding.cc",
      "fdpass/message.cc", "fdpass/poller.cc", "fdpass/binding.cc", "notify/binding.cc",
      "hash/sha256_pair.cc", "hash/binding.cc", "tar/header_scan.cc", "tar/binding.cc",
      "tarindex/plan.cc", "tarindex/writer.cc", "tarindex/append.cc", "tarindex/binding.cc",
      "layer/span_store.cc", "layer/span_writes.cc", "layer/span_eviction.cc", "layer/span_lending.cc", "layer/span_watching.cc", "layer/quiet_file.cc", "layer/span_fill.cc", "layer/binding.cc",
      "fuse/session.cc", "fuse/requests.cc", "fuse/reads.cc", "fuse/reply.cc", "fuse/reply_buffers.cc", "fuse/tree_files.cc", "fuse/device_files.cc",
      "fuse/binding.cc",
      "fanotify/group.cc", "fanotify/event_table.cc", "fanotify/watcher.cc", "fanotify/binding.cc",
      "mount/kernel_mount.cc", "mount/namespace.cc", "mount/binding.cc",
      "content/clone.cc", "content/verity.cc", "content/objects.cc", "content/tree_writer.cc", "content/binding.cc"
    ],
    # Node's own include directory has zlib.h and openssl/ of other versions than the libraries we link; the addon needs
    # nothing of it but Node-API, whose headers come as a package.
    "include_dirs!": ["<(node_root_dir)/include/node", "<(node_root_dir)/src", "<(node_root_dir)/deps/openssl/config",
                      "<(node_root_dir)/deps/openssl/openssl/include", "<(node_root_dir)/deps/uv/include",
                      "<(node_root_dir)/deps/zlib", "<(node_root_dir)/deps/v8/include"],
    "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")",
                     "<!(node -p \"require('node-api-headers').include_dir\")"],
    "defines": ["NAPI_VERSION=8", "OPENSSL_SUPPRESS_DEPRECATED", "_FILE_OFFSET_BITS=64"],
    "cflags_cc": ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fexceptions"],
    "cflags_cc!": ["-fno-exceptions", "-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
    "libraries": ["-lisal", "-l:libz.a", "-l:libzstd.a", "-l:libcrypto.a", "-Wl,--exclude-libs,ALL", "-Wl,-Bsymbolic", "-Wl,-z,now"]
  }, {
    # Lives as long as the mounts, beside each daemon: plain C, static, so that it stays below 1 MB of memory.
    "target_name": "ocifs-keeper",
    "type": "executable",
    "sources": ["keeper/keeper.c", "keeper/fd_store.c", "keeper/notify_socket.c", "keeper/program.c"],
    "defines": ["_FILE_OFFSET_BITS=64"],
    "cflags": ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"],
    "ldflags": ["-static"],
    "ldflags!": ["-rdynamic"]
  }]
}
