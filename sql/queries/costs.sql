-- costs.sql($1 team, $2 start of the month, $3 its end, $4 bytes of a part of an upload): what is known of each repo in that month.
-- An upload in one piece is one request; in several, one for each, one that begins it and one that ends it.
select
  repo.id::text as repo_id, repo.name as repo, repo.created_at as since,
  coalesce(measured.days, 0) as measured, sums.sums,
  taken.snapshots, taken.uploads, replaced.merged, proved.drills, proved.drilled,
  back.restores, back.restored, made.downloads, made.downloaded, live.parts, live.stored
from repo
left join measured_month measured on measured.repo_id = repo.id and month = ($2::timestamptz at time zone 'UTC')::date
cross join lateral (
  select coalesce(jsonb_agg(jsonb_build_array(kind, class, byte_days::text)), '[]')::text as sums
  from stored_month where stored_month.repo_id = repo.id and month = ($2 at time zone 'UTC')::date
) sums
cross join lateral (
  select count(*) as snapshots, coalesce(sum(
    case when stored <= $4::bigint then 1 else ceil(stored::numeric / $4) + 2 end + case when index_bytes > 0 then 1 else 0 end
  ), 0)::bigint as uploads
  from snapshot left join part on part.key = bundle_key
    left join lateral (select coalesce(sealed_bytes, bytes) as stored) size on true
  where snapshot.repo_id = repo.id and taken_at >= $2 and taken_at < $3
) taken
cross join lateral (
  select coalesce(sum(ceil(coalesce(sealed_bytes, bytes)::numeric / $4) + 1), 0)::bigint as merged
  from part where part.repo_id = repo.id and replaced_at >= $2 and replaced_at < $3
) replaced
cross join lateral (
  select count(*) as drills, coalesce(sum(bytes), 0)::bigint as drilled
  from drill where drill.repo_id = repo.id and finished_at >= $2 and finished_at < $3
) proved
cross join lateral (
  select count(*) as restores, coalesce(sum(log_bytes), 0)::bigint as restored
  from restore join snapshot on snapshot.repo_id = restore.repo_id and number = restore.snapshot
  where restore.repo_id = repo.id and finished_at >= $2 and finished_at < $3
) back
cross join lateral (
  select count(*) as downloads, coalesce(sum((result ->> 'bytes')::bigint), 0)::bigint as downloaded
  from job where job.repo_id = repo.id and kind = 'bundle' and state = 'done' and finished_at >= $2 and finished_at < $3
) made
cross join lateral (
  select count(*) as parts, coalesce(sum(coalesce(sealed_bytes, bytes)), 0)::bigint as stored
  from part where part.repo_id = repo.id and replaced_at is null
) live
where repo.team_id = $1 and repo.created_at < $3
order by repo.name, repo.id
