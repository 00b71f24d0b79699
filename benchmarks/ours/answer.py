"""eventplat answering queries, in a service with or without a database."""

from __future__ import annotations

from benchmarks.ours.shop import SERVICE, Price, Quote, run, settings
from benchmarks.program import Job, job
from eventplat import Context, Service
from eventplat.lifecycle import spare_the_collector, until_signalled
from eventplat.process import Process


def service(*, database: bool) -> Service[None]:
    found = Service(SERVICE, database=database)

    @found.handles(Price)
    async def price(question: Price, ctx: Context) -> Quote:
        return Quote(sku=question.sku, note=question.note)

    return found


async def main(given: Job) -> None:
    database = given.variant == "database"
    process = Process([service(database=database)], gateway=False, settings=settings(given, prefetch=64))
    await process.start()
    spare_the_collector()
    print("ready", flush=True)
    await until_signalled()


if __name__ == "__main__":
    run(main(job()))
