-- measures_jobs.sql: jobs that have not ended, by kind and state, and since when the oldest queued one waits.
select kind, state, count(*) as n,
  min(extract(epoch from queued_at)::float8) filter (where state = 'queued') as oldest
from job where state in ('queued', 'running') group by kind, state
