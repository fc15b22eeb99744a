-- strips.sql($1 repo ids, $2 since, $3 zone): of each of these repos, the days of that zone on which something new was
-- saved: how often, and how many refs were forced.
select
  saved.repo_id, saved.day, saved.backups,
  (
    select count(*) from ref_change move
    where move.repo_id = saved.repo_id and move.snapshot between saved.first and saved.last and move.kind = 'forced'
      and old is not null and kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea
  ) as forced
from (
  select repo_id, (taken_at at time zone $3)::date as day, count(*) as backups, min(number) as first, max(number) as last
  from snapshot
  where repo_id = any ($1) and taken_at >= $2
  group by repo_id, day
) saved
order by repo_id, day
