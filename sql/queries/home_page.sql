-- home_page.sql($1 team_id, $2 pattern or null, $3 state or null, $4 ids or null, $5 limit, $6 offset, $7 name or null,
-- after which), the order and how a name matches put in: some repos of a team with what is kept of each. `matches` is how many there are in all.
with chosen as (
  select repo.*, repo_state(repo) as state, count(*) over () as matches
  from repo
  where repo.team_id = $1
    and ($2::text is null or repo.name {match} $2)
    and ($3::text is null or repo_state(repo) = $3)
    and ($4::uuid[] is null or repo.id = any ($4))
    and ($7::text is null or repo.name > $7)
  order by {order}, repo.name
  limit $5 offset $6
)
select
  chosen.*, latest.number as snapshots, latest.taken_at as saved_at,
  (select taken_at from snapshot where repo_id = chosen.id order by number limit 1) as first_at, coalesce(latest.refs_count, 0) as refs,
  (select coalesce(sum(bytes), 0)::bigint from part where part.repo_id = chosen.id and part.replaced_at is null) as bytes,
  proof.finished_at as proved_at, cardinality(proof.problems) as problems,
  (select count(*) from job where job.repo_id = chosen.id and job.kind = 'sync' and job.state = 'running') > 0 as at_work
from chosen
left join lateral (
  select number, taken_at, refs_count from snapshot where repo_id = chosen.id order by number desc limit 1
) latest on true
left join lateral (
  select finished_at, problems from drill where repo_id = chosen.id order by finished_at desc limit 1
) proof on true
order by {outer}, chosen.name
