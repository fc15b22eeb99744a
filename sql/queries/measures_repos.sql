-- measures_repos.sql($1 now): all repos together. What a row counts says `what`: since when repos are protected, by how we hear of
-- pushes; a state; a class of error; the wishes that wait. `oldest`, `most`, `median`: the time as of which all, 95 in 100
-- and half of the repos are protected; of wishes, since when the oldest waits.
with kept as (
  select
    repo_state(repo, $1) as state,
    case when failure_class is null and refused_at is not null and archived_at is null and paused_at is null then 'credentials' else failure_class end
      as failure_class,
    archived_at is null and paused_at is null as looked_after,
    extract(epoch from protected_as_of)::float8 as protected, is_outside_rpo(repo, $1) as outside,
    case
      when exists (select from hook where hook.repo_id = repo.id and hook.state in ('given', 'registered')) then 'hooked'
      when schedule is not null then 'scheduled'
      else 'by-activity'
    end as heard,
    case when wanted_at is distinct from synced_at
      then extract(epoch from coalesce(behind_since, wanted_at))::float8
    end as waits
  from repo
)
select 'protected' as what, heard as name, count(*) as n, min(protected) as oldest,
  percentile_cont(0.5) within group (order by protected) as median,
  percentile_cont(0.05) within group (order by protected) as most
from kept where looked_after and protected is not null group by heard
union all
select 'outside', null, count(*) filter (where outside), null, null, null from kept
union all
select 'newest', null, count(*), max(protected), null, null from kept
union all
select 'state', state, count(*), null, null, null from kept group by state
union all
select 'failing', failure_class, count(*), null, null, null from kept where failure_class is not null group by failure_class
union all
select 'wish', null, count(*), min(waits), null, null from kept where waits is not null
