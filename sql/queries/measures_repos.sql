-- measures_repos.sql($1 now): all repos together. What a row counts says `what`: an age of protection, by how we hear of
-- pushes; a state; a class of error; the wishes that wait.
with kept as (
  select
    repo_state(repo) as state, failure_class, archived_at is null and paused_at is null as looked_after,
    extract(epoch from $1::timestamptz - protected_as_of)::float8 as age,
    case
      when exists (select from hook where hook.repo_id = repo.id and hook.state in ('given', 'registered')) then 'hooked'
      when schedule is not null then 'scheduled'
      else 'by-activity'
    end as heard,
    case when wanted_at is distinct from synced_at
      then extract(epoch from $1::timestamptz - coalesce(behind_since, wanted_at))::float8
    end as waits
  from repo
)
select 'age' as what, heard as name, count(*) as n, max(age) as oldest,
  percentile_cont(0.5) within group (order by age) as median,
  percentile_cont(0.95) within group (order by age) as most
from kept where looked_after and age is not null group by heard
union all
select 'state', state, count(*), null, null, null from kept group by state
union all
select 'failing', failure_class, count(*), null, null, null from kept where failure_class is not null group by failure_class
union all
select 'wish', null, count(*), max(waits), null, null from kept where waits is not null
