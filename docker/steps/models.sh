#!/usr/bin/env bash
# The models of $MODELS at $PREFIX/model_repository. Beside Triton they run; a front reads what they are from there too.
. "$(dirname "$0")/lib.sh"
read -ra models <<< "${MODELS:-}"
[ "${#models[@]}" -gt 0 ] || die "name the models, as in: MODELS='asr_pocketsphinx tts_flite' models.sh"
mkdir -p "$PREFIX/model_repository"
cp "$SOURCE/model_repository/catalogue.yaml" "$PREFIX/model_repository"
for model in "${models[@]}"; do
  [ -f "$SOURCE/model_repository/$model/config.pbtxt" ] || die "there is no model $model in model_repository"
  cp -r "$SOURCE/model_repository/$model" "$PREFIX/model_repository"
done
find "$PREFIX/model_repository" -name __pycache__ -prune -exec rm -rf {} +
