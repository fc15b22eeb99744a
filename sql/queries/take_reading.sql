-- take_reading.sql($1 worker, $2 now): take up the restore that has waited longest, while the first vault is away and a copy answers.
-- Nothing else of the queue can be done then, so no lanes, shares or places at hosts are kept: see sql/038_queue.sql.
with chosen as (
  select queue.key, queue.repo_id, queue.team_id, queue.job_id, queue.heavy
  from queue join job on job.id = queue.job_id
  where queue.kind = 'restore' and job.state = 'queued' and not queue.has_job and (queue.ready or queue.due_at <= $2)
  order by queue.since, queue.key limit 1
  for update of job skip locked
), started as (
  update job set
    state = 'running', attempt = attempt + 1, started_at = $2, beat_at = clock_timestamp(), due_at = null
  from chosen where job.id = chosen.job_id
  returning job.*
), taken as (
  insert into run (key, repo_id, team_id, job_id, kind, heavy, worker, began_at)
  select key, repo_id, team_id, job_id, 'restore', heavy, $1, $2 from chosen
)
select
  chosen.key as run_key, chosen.repo_id as run_repo, chosen.team_id as run_team, 'restore' as run_kind,
  chosen.heavy as run_heavy, repo.failure_class as failing, started.*
from chosen join started on started.id = chosen.job_id join repo on repo.id = chosen.repo_id
