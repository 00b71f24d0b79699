# One image for the gateway, the services and the one-shot setup: `eventplat COMMAND`.
# It holds no secret; everything that differs between deployments comes from the environment.

FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/eventplat
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock .
RUN /opt/eventplat/bin/pip install -r requirements.lock
COPY pyproject.toml README.md ./
COPY eventplat eventplat
RUN /opt/eventplat/bin/pip install -c requirements.lock . && /opt/eventplat/bin/pip check

FROM python:3.13-slim
RUN groupadd --gid 10001 eventplat \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin eventplat \
 && install -d -o eventplat -g eventplat /data
COPY --from=build /opt/eventplat /opt/eventplat
WORKDIR /app
COPY services services
COPY migrations migrations
ENV PATH=/opt/eventplat/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    EVENTPLAT_DATA_DIR=/data EVENTPLAT_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["eventplat"]
CMD ["--help"]
