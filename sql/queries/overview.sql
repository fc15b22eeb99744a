-- overview.sql($1 repo_id or null for all, $2 team_id likewise, $3 now or null): each repo with what is kept of it and how it is doing.
select
  repo.*, team.name as team,
  (select count(*) from snapshot where snapshot.repo_id = repo.id and dropped_at is null) as snapshots,
  coalesce(latest.refs_count, 0) as refs,
  coalesce((select sum(bytes) from part where part.repo_id = repo.id and part.replaced_at is null), 0)::bigint as bytes,
  repo_state(repo, $3) as state, is_outside_rpo(repo, $3) as outside_rpo,
  least(
    repo.behind_since, repo.failing_since, case when repo.paused_at is null then repo.refused_at end,
    case when repo_state(repo, $3) = 'late' then coalesce(repo.behind_since, repo.protected_as_of) end
  ) as behind, latest.taken_at as saved_at,
  (select finished_at from drill where repo_id = repo.id order by finished_at desc limit 1) as proved_at,
  (select why from connection where id = repo.connection_id and repo.refused_at is not null) as refused,
  exists (select from job where job.repo_id = repo.id and kind = 'sync' and job.state = 'running') as at_work
from repo
join team on team.id = repo.team_id
left join lateral (
  select refs_count, taken_at from snapshot where snapshot.repo_id = repo.id order by number desc limit 1
) latest on true
where ($1::uuid is null or repo.id = $1) and ($2::uuid is null or repo.team_id = $2)
order by team.name, repo.name
