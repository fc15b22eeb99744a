-- orphaned.sql($1 now, $2 attempts): what becomes of running jobs that no worker has: they wait again, unless somebody
-- wants them stopped, they were begun too often, or the same was asked for meanwhile (also by one of them). What somebody
-- does at the command line is over once that command is silent.
with alone as (
  select * from job
  where state = 'running' and not exists (select from run where run.job_id = job.id)
    and not (attended and beat_at > clock_timestamp() - interval '30 s')
  for update skip locked
), orphan as (
  select
    id, cancel_at is not null or attended as stopped, attended,
    kind in ('sync', 'compact') and (
      exists (
        select from job as other
        where other.repo_id = alone.repo_id and other.kind = alone.kind and other.state = 'queued'
      ) or row_number() over (
        partition by repo_id, kind order by cancel_at is null and attempt < $2::int desc, queued_at desc, id desc
      ) > 1
    ) as replaced,
    attempt >= $2::int as worn
  from alone
)
update job set
  state = case when stopped then 'cancelled' when replaced or worn then 'failed' else 'queued' end,
  finished_at = case when stopped or replaced or worn then $1::timestamptz end,
  sealed = case when stopped or replaced or worn then null else sealed end,
  failure_class = case when stopped then null when replaced then 'busy' when worn then 'ours' end,
  failure_message = case
    when stopped then null
    when replaced then 'its worker went away; the same was asked for again and is done instead'
    when worn then 'its worker went away each time that it was begun; see the log of the worker'
  end,
  notes = notes || case when orphan.attended then 'its command went away' else 'its worker went away' end::text
from orphan
where job.id = orphan.id
