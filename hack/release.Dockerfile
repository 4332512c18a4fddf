# The image of a release, from the programs that were built and compared before: nothing is compiled here.
# The list of CAs is the same for all machines, and made on that of the build: nothing is emulated.
FROM --platform=$BUILDPLATFORM docker.io/library/debian:12-slim AS authorities
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates

FROM scratch
ARG TARGETARCH
COPY --from=authorities /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY dist/longshore-linux-${TARGETARCH} /longshore
USER 65534:65534
ENTRYPOINT ["/longshore"]
