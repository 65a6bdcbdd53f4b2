# Build stage: static binary, cross-compiled on the build platform.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /semcached ./cmd/semcached \
 && mkdir -p /data

# Final stage: the binary, CA certificates (for https upstreams) and an empty
# data folder, owned by an unprivileged user.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /semcached /semcached
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
# Inside a container the loopback address is the container's own.
ENV SEMCACHED_LISTEN=0.0.0.0:11435 \
    SEMCACHED_ADMIN=127.0.0.1:11436 \
    SEMCACHED_UPSTREAM=http://host.docker.internal:11434 \
    SEMCACHED_DATA=/data
VOLUME /data
EXPOSE 11435
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/semcached", "healthcheck"]
ENTRYPOINT ["/semcached"]
CMD ["serve"]
