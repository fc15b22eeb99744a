-- forced_lately.sql($1 team_id, $2 since): of each repo of a team that was force-pushed since then, the newest force-push,
-- the default branch's before any other's, and how many there were. What the team's own restores did is none.
select
  repo.id as repo_id, repo.name as repo, forced.*,
  (select name from ref where id = forced.ref_id) as ref
from repo
cross join lateral (
  select
    move.snapshot, move.ref_id, move.pushed_by, coalesce(move.pushed_at, taken.taken_at) as at,
    coalesce(taken.head = 'ref: '::bytea || (select name from ref where id = move.ref_id), false) as is_default,
    count(*) over () as many
  from ref_change move
  join snapshot taken on taken.repo_id = move.repo_id and taken.number = move.snapshot
  where move.repo_id = repo.id and move.kind = 'forced'
    and move.snapshot >= (select min(number) from snapshot where repo_id = repo.id and taken_at >= $2)
    and old is not null and move.kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea
    and not exists (
      select from restored_ref ours join job on job.id = ours.job_id
      where job.team_id = repo.team_id
        and ((ours.old, ours.new) = (move.old, move.new) or (ours.new, ours.old) = (move.old, move.new))  -- or undid it
        and ours.name = (select name from ref where id = move.ref_id)
    )
  order by is_default desc, move.snapshot desc, move.position desc
  limit 1
) forced
where repo.team_id = $1
order by is_default desc, at desc
