"""What happens when a file has come whole: a repo for it, and a job that proves it.

Who calls: the pages and the API. Before that, the pieces of the file come (backup/uploads).
"""

from mirror.backup import pushing, uploads
from mirror.core.errors import NotFound, Refused
from mirror.core.rules.roles import PersonId
from mirror.discovery import create
from mirror.discovery.choose import By
from mirror.jobs import run
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import uploads as rows
from mirror.store.backup.uploads import Upload
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import BegunAlready


async def finish(services: Services, upload: Upload, by: By, person: PersonId) -> Upload:
    """All of the file has come: have a worker prove it, in a repo of its own unless it has one.

    1. The repo is made, without a remote; one that an earlier run of this made is that one.
    2. It is recorded with the upload, with the id of the job.
    3. The job is queued.

    Safe to run twice, and after a run that was killed anywhere. Raises Refused while something of the file
    is missing or its repo is paused, UsageError where the name was taken meanwhile, OverLimit where the team
    has as many repos or jobs as it may.
    """
    db, now = services.db, services.clock()
    if upload.state == "coming":
        if upload.came < upload.bytes:
            raise Refused(f"{upload.bytes - upload.came:,} bytes of the file are missing; send them first")
        if upload.repo_id is not None:
            repo = await repos.get(db, upload.repo_id)
            await pushing.check_not_paused(services, repo)
        else:
            repo = await create.create(services, upload.team_id, by, upload.name, repo_id=upload.own_repo)
            if repo.id != upload.own_repo:
                raise uploads.name_taken(upload.name)
        failpoints.reached("upload: repo made")
        await rows.proving(db, upload.id, repo.id, jobs.new_id(), now)
        failpoints.reached("upload: proving")
        found = await rows.find(db, upload.team_id, upload.id)
        if found is None:
            raise NotFound("there is no such upload")
        upload = found
    if upload.state == "proving" and upload.job_id is not None and upload.repo_id is not None:
        if await jobs.by_id(db, upload.job_id) is None:
            asked = {"upload": str(upload.id)}
            try:
                await run.ask(
                    services, upload.repo_id, "import", asked, person_id=person, job_id=upload.job_id
                )
            except BegunAlready:  # by another request at the same moment
                return upload
    return upload
