# Build, test and run ocifs in containers; every step is a script that also runs without them.
#
#   docker build -t ocifs .
#   docker build --target test -t ocifs-test . && docker run --rm --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined ocifs-test
#   docker run --rm --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined -v /mnt:/mnt:rshared \
#     --entrypoint mount.ocifs ocifs registry.example/app:1.4 /mnt/app -o foreground

FROM node:20-bookworm-slim AS build
WORKDIR /src
# The slow parts first, so that a change of the sources does not repeat them.
COPY scripts/lib.sh scripts/apt-packages scripts/
RUN scripts/apt-packages build && rm -rf /var/lib/apt/lists/*
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN scripts/build && DESTDIR=/out scripts/install

FROM build AS test
RUN scripts/apt-packages test && rm -rf /var/lib/apt/lists/*
# Mounts are not possible while an image is built, so the suite runs in a container.
CMD [".ci/run"]

FROM node:20-bookworm-slim
COPY scripts/lib.sh scripts/apt-packages /tmp/scripts/
RUN /tmp/scripts/apt-packages run && rm -rf /tmp/scripts /var/lib/apt/lists/*
COPY --from=build /out/ /
ENTRYPOINT ["ocifs"]
CMD ["--help"]
