-- beside.sql($1 repo_id, $2 snapshot or null, $3 moment): what a repo's page shows beside its history: its hook, the newest drill, how long a restore takes, the pushes that could
-- not be rescued, and the jobs that have not ended; and the newest drill of that moment itself that signed a statement.
select
  hook.forge, hook.state, hook.why, coalesce(hook.delivered_at, (
    select received_at from delivery where hook_id = hook.id order by received_at desc limit 1
  )) as delivered_at,
  (select drill from drill where repo_id = $1 order by finished_at desc, id desc limit 1) as drill,
  repo_rto($1) as rto,
  array(select lost_push from lost_push where repo_id = $1 order by snapshot, id) as lost,
  own.*,
  array(select job from job where repo_id = $1 and state in ('queued', 'running') order by queued_at, id) as jobs
from (select) as one left join hook on hook.repo_id = $1
left join lateral (
  select evidence.key as own_key, drill.finished_at as own_at, drill.seconds as own_seconds, evidence.passed as own_passed
  from evidence join drill on drill.repo_id = $1 and drill.finished_at = evidence.at
  where evidence.repo_id = $1 and evidence.kind = 'drill' and evidence.snapshot = $2 and evidence.moment = $3
  order by evidence.at desc limit 1
) as own on true
