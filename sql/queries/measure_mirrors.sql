-- measure_mirrors.sql($1 now): how long the oldest snapshot waits that some mirror has not, and how many targets are in which state.
select
  coalesce(extract(epoch from $1::timestamptz - min((
    select greatest(taken_at, target.since) from snapshot where snapshot.repo_id = target.repo_id and number > target.pushed order by number limit 1
  )) filter (where target.pushed < target.newest and mirror.paused_at is null)), 0)::double precision as lag,
  count(*) filter (where mirror.paused_at is not null) as paused,
  count(*) filter (where mirror.paused_at is null and failures > 0) as failing,
  count(*) filter (where mirror.paused_at is null and failures = 0 and counts ? 'diverged') as changed,
  count(*) filter (where mirror.paused_at is null and failures = 0 and not counts ? 'diverged' and counts ? 'refused') as refused,
  count(*) filter (
    where mirror.paused_at is null and failures = 0 and not counts ?| array['diverged', 'refused'] and (pushed = 0 or pushed < newest)
  ) as behind,
  count(*) filter (
    where mirror.paused_at is null and failures = 0 and not counts ?| array['diverged', 'refused'] and pushed > 0 and pushed >= newest
  ) as current
from mirror_target target join mirror on mirror.id = target.mirror_id
