-- events_moves.sql($1 events): of each event of refs, the moves that took something away from a branch or a tag, up to 1,000 of each.
-- What the team's own restores did, and undoing them, is none.
select
  event.id as event_id, repo.team_id, team.name as team, team.guarded_refs, repo.name as repo, lost.*
from event
join repo on repo.id = event.repo_id
join team on team.id = repo.team_id
join snapshot taken on taken.repo_id = event.repo_id and taken.number = event.number
left join snapshot was on was.repo_id = event.repo_id and was.number = event.number - 1
cross join lateral (
  select
    ref.name as ref, move.kind, move.pushed_by, coalesce(move.pushed_at, taken.taken_at) as at, taken.number as snapshot,
    coalesce(coalesce(case when move.kind = 'deleted' then was.head else taken.head end, '') = 'ref: '::bytea || ref.name, false) as is_default
  from ref_change move
  cross join lateral (select name from ref where id = move.ref_id limit 1) ref
  where move.repo_id = event.repo_id and move.snapshot = event.number and move.old is not null
    and ref.name <> 'HEAD'::bytea
    and (move.kind in ('forced', 'deleted') or (move.kind = 'moved' and starts_with(encode(ref.name, 'escape'), 'refs/tags/')))
    and not exists (
      select from restored_ref ours join job on job.id = ours.job_id
      where job.team_id = repo.team_id and ours.name = ref.name and taken.taken_at >= job.queued_at - interval '1 minute'
        and (
          (move.old is not distinct from ours.old and move.new is not distinct from ours.new)
          or (move.old is not distinct from ours.new and move.new is not distinct from ours.old)
        )
    )
  order by move.position limit 1000
) lost
where event.id = any($1::bigint[])
order by event.id
