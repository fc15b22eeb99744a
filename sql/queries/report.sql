-- report.sql($1 team, $2 from, $3 to, $4 now): every repo of the team, what happened to it in that period, and how it is now.
select
  repo.id, repo.name, repo.url, repo.protected_as_of, repo.failing_since, repo.failure_class, repo.archived_at, repo.damaged_at,
  repo.paused_at, repo_state(repo, $4) as state,
  saved.snapshots, saved.changes, saved.bytes, lost.forced,
  back.restores, back.restores_verified, proof.drills, proof.drills_failed,
  (select max(finished_at) from drill where drill.repo_id = repo.id) as last_drill_at
from repo
cross join lateral (
  select count(*) as snapshots, coalesce(sum(changes_count), 0)::bigint as changes,
    coalesce(sum(segment_bytes), 0)::bigint as bytes
  from snapshot where snapshot.repo_id = repo.id and taken_at >= $2 and taken_at < $3
) saved
cross join lateral (
  select count(*) as forced
  from snapshot join ref_change on ref_change.repo_id = snapshot.repo_id and ref_change.snapshot = snapshot.number
  where snapshot.repo_id = repo.id and taken_at >= $2 and taken_at < $3
    and old is not null and kind in ('forced', 'deleted')
) lost
cross join lateral (
  select count(*) as restores, count(*) filter (where verified) as restores_verified
  from restore where restore.repo_id = repo.id and finished_at >= $2 and finished_at < $3
    and undo_of is null and destination not like 'undo of %' and destination not like 'bundle %' and destination <> 'a bundle to download'
) back
cross join lateral (
  select count(*) as drills, count(*) filter (where cardinality(problems) > 0) as drills_failed
  from drill where drill.repo_id = repo.id and finished_at >= $2 and finished_at < $3
) proof
where repo.team_id = $1
order by repo.name, repo.id
