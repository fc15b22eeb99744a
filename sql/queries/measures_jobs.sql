-- measures_jobs.sql($1 now, $2 since when is of late): jobs that have not ended by state, those that ended of late by
-- state, and those of them that failed by class of error.
select 'open' as what, kind, state as name, count(*) as n,
  max(extract(epoch from $1::timestamptz - queued_at)::float8) filter (where state = 'queued') as oldest
from job where state in ('queued', 'running') group by kind, state
union all
select 'ended', kind, state, count(*), null from job where finished_at > $2 group by kind, state
union all
select 'failed', kind, failure_class, count(*), null from job
where finished_at > $2 and failure_class is not null group by kind, failure_class
