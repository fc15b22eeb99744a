-- forced_lately.sql($1 team_id, $2 since): of each repo of a team that was force-pushed since then, the newest force-push,
-- the default branch's before any other's, and how many there were. Deleting the default branch counts as one. What the
-- team's own restores did is none; nor is what somebody settled, or brought back from before it.
select
  repo.id as repo_id, repo.name as repo, forced.*,
  (select name from ref where id = forced.ref_id) as ref,
  (
    -- the moment before it, where pushes were told of that lie between two snapshots
    select earlier.moment from ref_change earlier
    where earlier.repo_id = repo.id and earlier.snapshot = forced.snapshot and earlier.position < forced.position
      and earlier.moment is not null and earlier.moment is distinct from forced.moment
    order by earlier.position desc limit 1
  ) as before_moment
from repo
cross join lateral (
  select
    move.snapshot, move.position, move.moment, move.ref_id, move.pushed_by, move.kind = 'deleted' as deleted,
    coalesce(move.pushed_at, taken.taken_at) as at,
    coalesce(coalesce(case when move.kind = 'deleted' then was.head else taken.head end, '') = 'ref: '::bytea || ref.name, false) as is_default,
    count(*) over () as many
  from ref_change move
  cross join lateral (select name from ref where id = move.ref_id limit 1) ref  -- few moves are read: looked up, not joined
  join snapshot taken on taken.repo_id = move.repo_id and taken.number = move.snapshot
  left join lateral (
    select head from snapshot where repo_id = move.repo_id and number = move.snapshot - 1 limit 1
  ) was on true
  where move.repo_id = repo.id
    and (move.kind = 'forced' or (move.kind = 'deleted' and was.head = 'ref: '::bytea || ref.name))
    and move.snapshot >= (select min(number) from snapshot where repo_id = repo.id and taken_at >= $2)
    and old is not null and move.kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea
    and not exists (
      -- a restore, or undoing it, is one move each: whoever makes the same move again later is somebody else
      select from restored_ref ours join job on job.id = ours.job_id
      cross join lateral (
        select job.queued_at as at where (ours.old, ours.new) = (move.old, move.new)
        union all
        select undo.queued_at from job undo
        where undo.repo_id = job.repo_id and undo.kind = 'restore' and undo.asked->>'undo' = job.id::text
          and (ours.new, ours.old) = (move.old, move.new)
      ) begun
      where job.team_id = repo.team_id and ours.name = ref.name
        and taken.taken_at >= begun.at - interval '1 minute'  -- clocks of machines differ
        and not exists (
          select from ref_change same join snapshot seen on seen.repo_id = same.repo_id and seen.number = same.snapshot
          where same.ref_id = move.ref_id and (same.old, same.new) = (move.old, move.new)
            and (same.snapshot, same.position) < (move.snapshot, move.position)
            and seen.taken_at >= begun.at - interval '1 minute'
        )
    )
    and not exists (
      select from settled
      where settled.repo_id = repo.id and settled.kind = 'forced' and settled.snapshot >= move.snapshot
    )
    and not exists (
      select from restore back
      where back.repo_id = repo.id and back.finished_at >= taken.taken_at and back.snapshot <= move.snapshot
        and (back.snapshot < move.snapshot or back.moment > 0)
        and back.verified and is_own(back, repo) and exists (
          select from restored_ref written
          where written.job_id = back.job_id
            and (written.new = move.old or written.name = ref.name or brings_back(written.name, ref.name))
        )
    )
  order by is_default desc, move.snapshot desc, move.position desc
  limit 1
) forced
where repo.team_id = $1
order by is_default desc, at desc
