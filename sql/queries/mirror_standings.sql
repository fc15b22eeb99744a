-- mirror_standings.sql($1 team, $2 now): the team's mirrors, those of all its repos first, each with how many repos are in which state
-- (as core/rules/mirrors.state has it), the longest lag in seconds, and when anything was pushed last.
with each as (
  select
    target.mirror_id, target.pushed_at,
    case
      when mirror.paused_at is not null then 'paused'
      when target.failing_since is not null and target.due_at is null then 'stopped'
      when target.failing_since is not null then 'failing'
      when target.counts ? 'diverged' then 'changed'
      when target.counts ? 'refused' then 'refused'
      when target.pushed = 0 then 'waiting'
      when target.pushed < target.newest then 'behind'
      else 'current'
    end as state,
    case when target.pushed < target.newest then (
      select greatest(extract(epoch from $2::timestamptz - greatest(taken_at, target.since)), 0) from snapshot
      where snapshot.repo_id = target.repo_id and number > target.pushed order by number limit 1
    ) end as lag
  from mirror_target target join mirror on mirror.id = target.mirror_id
  where mirror.team_id = $1
), summed as (
  select mirror_id, state, count(*) as targets, max(lag) as lag, max(pushed_at) as pushed_at from each group by 1, 2
)
select
  mirror.*, repo.name as repo, coalesce(found.targets, 0)::int as targets, coalesce(found.states, '{}') as states,
  coalesce(found.lag, 0)::double precision as lag, found.pushed_at
from mirror
left join repo on repo.id = mirror.repo_id
left join lateral (
  select
    sum(targets) as targets, jsonb_object_agg(state, targets order by state) as states, max(lag) as lag, max(pushed_at) as pushed_at
  from summed where mirror_id = mirror.id
) found on true
where mirror.team_id = $1
order by mirror.repo_id is not null, repo.name, mirror.created_at, mirror.id
