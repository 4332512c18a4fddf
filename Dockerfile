# The image for those who have Docker, Podman or buildah. `hack/image` builds the same without them.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# hack/static prints where the program is.
RUN cp "$(hack/static)" /longshore

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /longshore /longshore
USER 65534:65534
ENTRYPOINT ["/longshore"]
