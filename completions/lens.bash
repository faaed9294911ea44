# Completion of lens for bash 4.4 and newer; made by: lens completion bash

_lens() {
    local cur cword words value reply=()
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n : cur words cword
    else
        cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
    fi
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        case $value in
        :files)
            compopt -o default
            return
            ;;
        esac
        case $cur in
        [\'\"]*) reply+=("$value") ;;
        *) reply+=("$(printf %q "$value")") ;;
        esac
    done < <("${words[0]}" __complete bash "${words[@]:1:cword}" 2>/dev/null)
    COMPREPLY=("${reply[@]}")
    if ((${#reply[@]} == 1)) && [[ ${reply[0]} == *: ]]; then
        compopt -o nospace
    fi
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}

complete -o nosort -F _lens lens
