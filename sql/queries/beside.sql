-- beside.sql($1 repo_id): what a repo's page shows beside its history: its hook, the newest drill, how long a restore takes, the pushes that could
-- not be rescued, and the jobs that have not ended.
select
  hook.forge, hook.state, hook.why, coalesce(hook.delivered_at, (
    select received_at from delivery where hook_id = hook.id order by received_at desc limit 1
  )) as delivered_at,
  (select drill from drill where repo_id = $1 order by finished_at desc, id desc limit 1) as drill,
  repo_rto($1) as rto,
  array(select lost_push from lost_push where repo_id = $1 order by snapshot, id) as lost,
  array(select job from job where repo_id = $1 and state in ('queued', 'running') order by queued_at, id) as jobs
from (select) as one left join hook on hook.repo_id = $1
