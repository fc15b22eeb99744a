-- found_refs.sql($1 team_id, $2 words as a tsquery, $3 how many are read, $4 how many are shown): branches and tags of a team's repos whose names
-- have words that begin like these, also deleted ones: those that are there come first, and of these the shortest names.
with hits as (
  select ref.id, ref.name, repo.id as repo_id, repo.name as repo
  from ref join repo on repo.id = ref.repo_id
  where ref_words(ref.name) @@ $2::text::tsquery and repo.team_id = $1 and is_branch_or_tag(ref.name)
  limit $3
)
select
  hits.repo, hits.name, stay.target, stay.last_snapshot,
  (select taken_at from snapshot where snapshot.repo_id = hits.repo_id and number = stay.last_snapshot + 1) as gone_at
from hits
cross join lateral (
  select target, last_snapshot from ref_stay where ref_id = hits.id order by first_snapshot desc limit 1
) stay
order by stay.last_snapshot is not null, octet_length(hits.name), hits.repo, hits.name
limit $4
