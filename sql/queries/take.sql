-- take.sql: take up what is due next, fair between teams and bounded for each host; only while the lock of `take` is held.
-- $1 worker, $2 now, $3 how many at most, $4 of them heavy, $5 the shares that are this worker's, $6 how long it leaves
-- alone what is another's, $7 runs at most at one host, a quarter of them kept free of what is heavy.
with teams as (
  select team_id, count(*) as runs from run group by team_id
), hosts as (
  select host, count(*) as runs, count(*) filter (where heavy) as heavy
  from run where host is not null group by host
), due as (
  -- Wishes that no job serves. What fails is tried again when it may; a new wish is one try, unless it takes other
  -- credentials. What is gone at its forge is asked for as seldom as its failures say.
  select
    id as key, id as repo_id, null::uuid as job_id, 'sync' as kind, wanted_at as since,
    protected_as_of is null as heavy, case when protected_as_of is null then 2 else 1 end as class
  from repo
  where wanted_at is distinct from synced_at and paused_at is null
    and (archived_at is null or failure_class is not null)
    and (
      failure_class is null or retry_at <= $2
      or failed_at > $2 + interval '1 hour' and retry_at is not null  -- the clock was ahead
      or failed_at < wanted_at and (failure_class <> 'credentials' or retry_at is not null)
    )
    and not exists (
      select from job where job.repo_id = repo.id and job.kind = 'sync' and job.state in ('queued', 'running')
    )
  union all
  select
    job.id, job.repo_id, job.id, job.kind, job.queued_at,
    job.kind <> 'sync' or repo.protected_as_of is null,
    case when job.person_id is not null then 0 else 3 end
  from job join repo on repo.id = job.repo_id
  where job.state = 'queued' and (job.due_at is null or job.due_at <= $2 or job.due_at > $2 + interval '1 hour')
), open as (
  select
    due.*, repo.team_id, repo.failure_class,
    case when kind = 'sync' then substring(repo.url from '^[a-z]+://(?:[^/@]*@)?(\[[^]]*\]|[^/:]+)') end as host,
    not get_byte(uuid_send(repo_id), 0) = any($5::int[]) as elsewhere
  from due join repo on repo.id = due.repo_id
  where not exists (select from run where run.key = due.key)
    and (kind not in ('sync', 'compact') or not exists (
      select from run where run.repo_id = due.repo_id and run.kind in ('sync', 'compact')
    ) and not exists (
      select from lease
      where lease.repo_id = due.repo_id and owner is not null and beat_at > clock_timestamp() - interval '30 s'
    ))
), in_turn as (  -- a team's next waits behind what the team has at work and behind its own earlier ones
  select
    open.*,
    coalesce(teams.runs, 0)
      + row_number() over (partition by team_id order by since + class * interval '10 min', key) as turn
  from open left join teams using (team_id) left join hosts using (host)
  where (not elsewhere or since <= $2 - $6::interval or since > $2) and coalesce(hosts.runs, 0) < $7::int
), light as (
  select
    in_turn.*,
    row_number() over (partition by in_turn.heavy order by turn, elsewhere, since) as weight,
    coalesce(hosts.heavy, 0)
      + row_number() over (partition by in_turn.host, in_turn.heavy order by turn, elsewhere, since) as heavy_at_host
  from in_turn left join hosts using (host)
), bounded as (
  select
    light.*,
    coalesce(hosts.runs, 0) + row_number() over (partition by host order by turn, elsewhere, since) as at_host
  from light left join hosts using (host)
  where not light.heavy or weight <= $4::int and (light.host is null or heavy_at_host <= $7 - greatest(1, $7 / 4))
), chosen as (
  select * from bounded where host is null or at_host <= $7 order by turn, elsewhere, since limit $3
), begun as (
  update job set state = 'running', attempt = attempt + 1, started_at = $2, beat_at = clock_timestamp(), due_at = null
  from chosen where job.id = chosen.job_id
), taken as (
  insert into run (key, repo_id, team_id, job_id, kind, host, heavy, worker, began_at)
  select key, repo_id, team_id, job_id, kind, host, heavy, $1, $2 from chosen
)
select key, repo_id, job_id, kind, heavy, failure_class from chosen order by turn, elsewhere, since
